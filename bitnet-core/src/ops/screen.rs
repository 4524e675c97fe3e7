//! Cheap, rigorous bounds on the logits of an f16 head, from a shadow of its rows in few bits.
//!
//! A row is rounded to 64 levels, `w' = scale * (u - 31.5)`, and kept in two planes: the upper four bits of `u`, which
//! alone are a row of 16 levels, and the lower two, which are read only where four do not decide.
//!
//! ```text
//! four bits    64 bytes hold 128 weights: byte j has w[j] in its lower half, w[64 + j] in its upper half
//! two bits     as I2_S codes (see `quant::i2s`), except that 3 is a code, too
//! ```
//!
//! A logit is `w · x` with `x` rounded to f16, summed in f32 in the canonical order. Let `w'` be the row as either
//! plane has it, and `x'` the vector rounded to 16-bit integers times a step. In exact arithmetic
//!
//! ```text
//! w·x - w'·x' = (w - w')·x + w'·(x - x')        so, by Cauchy and Schwarz,
//! |w·x - w'·x'| <= |w - w'| |x| + |w'| |x - x'|
//! ```
//!
//! The vector is kept in two halves, `x' = step * (256 * high + low)`, and the two-bit plane is multiplied with the
//! upper halves alone. That leaves out at most
//! `scale |u mod 4 - 1.5| step |low| <= scale 1.5 sqrt(n) step |low|`.
//!
//! The canonical sum is not exact: each lane chains `n / 32` additions, and five more join the lanes, each rounding
//! by at most `u = 2^-24` of its result. The products are exact, and no partial sum exceeds the sum of their
//! sizes, which Cauchy and Schwarz bound by `|w| |x|`. So the logit differs from `w·x` by at most
//! `((1 + u)^(n/32 + 6) - 1) |w| |x|`, the sixth for the rounding after a tail.
//!
//! `w'·x'` itself is an integer, computed exactly, times a scale and a step. Norms of a row are summed in f32, which
//! `Sums` accounts for; all else is computed in f64 and inflated by far more than f64 can lose. A row with a value that
//! is not finite gets an infinite bound, and a vector with one makes every bound infinite or NaN, which excludes no
//! row.

use crate::pages::Lines;
use crate::quant::act::max_abs;
use crate::quant::i2s;

/// Weights that share a run of 64 bytes of the four-bit plane; rows of a shadow are whole runs.
pub const RUN: usize = 128;
/// Most values of a vector: sums of more would not fit the lanes they are made in.
pub const MAX_COLS: usize = 1 << 16;

/// Which planes of a shadow a bound is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The four-bit plane.
    Four,
    /// Both planes.
    Six,
}

/// What is kept of a row beside its planes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShadowRow {
    /// Distance from one of the 64 levels to the next.
    pub scale: f32,
    /// At least `|w - w'|` with `w'` in four bits.
    pub error_of_four: f32,
    /// At least `|w - w'|` with `w'` in six bits.
    pub error_of_six: f32,
    /// At least `|w|`.
    pub norm: f32,
}

/// A vector as 16-bit integers, whole and as two halves: `value = 256 * high + low`.
#[derive(Debug, Default)]
pub struct ShadowVector {
    /// `[n]`, at most [`MOST`] in size.
    pub values: Vec<i16>,
    /// `[n]`
    pub high: Lines<i8>,
    /// `[n]`
    pub low: Lines<i8>,
    /// Sum of `values`.
    sum: i32,
    /// Sum of `high`.
    sum_high: i32,
    /// `x' = step * values`.
    step: f64,
    /// At least `|x|`.
    norm: f64,
    /// At least `|x - x'|`.
    error: f64,
    /// At least `1.5 sqrt(n) step |low|`.
    left_out: f64,
}

/// The largest value of a [`ShadowVector`]: its high half is 127.
pub const MOST: i16 = 127 * 256;

/// Covers what f64 sums of a few thousand terms, and a conversion to f32, can lose.
const INFLATE: f64 = 1.0 + 1e-6;

/// Levels reach this many root mean squares from zero, if the row does: farther ones are rare, and would make every
/// step wider.
const REACH: f32 = 3.0;

/// Rounds a row to both planes.
///
/// - `fours`: `[n / 2]`, `twos`: `[n / 4]`, overwritten; `w`: `[n]`
///
/// # Panics
/// If `w` is not whole runs, or the lengths disagree.
#[inline(always)]
pub fn shadow_row(fours: &mut [u8], twos: &mut [u8], w: &[f32]) -> ShadowRow {
    let (runs, rest) = w.as_chunks::<RUN>();
    assert!(rest.is_empty(), "shadow_row: {} values are not whole runs of {RUN}", w.len());
    assert_eq!(
        (fours.len(), twos.len()),
        (w.len() / 2, w.len() / 4),
        "shadow_row: planes of {} values",
        w.len()
    );
    let scale = short(reach(w) / 32.0);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sums = Sums::default();
    let planes = fours.as_chunks_mut::<{ RUN / 2 }>().0.iter_mut().zip(twos.as_chunks_mut::<{ RUN / 4 }>().0);
    for ((four, two), w) in planes.zip(runs) {
        let mut levels = [0_u8; RUN];
        for (u, w) in levels.as_chunks_mut::<LANES>().0.iter_mut().zip(w.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                // 1.5 * 2^23 pushes the fraction out of the last bits: to the nearest level, ties to the even one.
                let v = (w[i] * inverse + 31.5).clamp(0.0, 63.0) + 12_582_912.0;
                let level = v.to_bits() & 63;
                u[i] = level as u8;
                sums.add(i, w[i], level, scale);
            }
        }
        for j in 0..RUN / 2 {
            four[j] = levels[j] >> 2 | levels[j + RUN / 2] >> 2 << 4;
        }
        for j in 0..i2s::BLOCK_BYTES {
            let [a, b, c, d] = [0, 32, 64, 96].map(|group| levels[group + j] & 3);
            two[j] = a << 6 | b << 4 | c << 2 | d;
        }
    }
    let row = sums.row(w.len(), scale);
    if [row.scale, row.norm, row.error_of_four, row.error_of_six].iter().all(|v| v.is_finite()) {
        row
    } else {
        ShadowRow {
            scale: 0.0,
            error_of_four: f32::INFINITY,
            error_of_six: f32::INFINITY,
            norm: f32::INFINITY,
        }
    }
}

/// How far from zero the levels of a row reach.
#[inline(always)]
fn reach(w: &[f32]) -> f32 {
    let mut squares = [0.0_f32; LANES];
    for w in w.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            squares[i] += w[i] * w[i];
        }
    }
    let rms = (squares.iter().sum::<f32>() / w.len() as f32).sqrt();
    let max = max_abs(w);
    if max > REACH * rms { REACH * rms } else { max }
}

/// `scale` in 16 significant bits: its products with levels, of 7 bits at most, are exact in f32.
#[inline(always)]
fn short(scale: f32) -> f32 {
    f32::from_bits(scale.to_bits() & !0xff)
}

/// Lanes of the sums over a row.
const LANES: usize = 16;

/// Squares of a row and of its errors, in f32.
///
/// A level times the scale is exact, so that the error of a weight is rounded once, by `u = 2^-24` of itself; squared,
/// and added up in chains of `n / 16`, none of whose terms is negative, a sum is short of the true one by `n / 16 + 3`
/// such steps at most. The norm is inflated by more than twice what its root needs. What f32 cannot hold is less than
/// 2^-75 for each weight, and so less than 2^-65 in the norm of a million: it is covered by a constant.
#[derive(Default)]
struct Sums {
    norm: [f32; LANES],
    four: [f32; LANES],
    six: [f32; LANES],
}

impl Sums {
    /// Adds weight `w` and its level to the sums of a lane.
    #[inline(always)]
    fn add(&mut self, lane: usize, w: f32, level: u32, scale: f32) {
        let four = w - scale * ((level & !3) as i32 as f32 - 30.0);
        let six = w - scale * (level as i32 as f32 - 31.5);
        self.norm[lane] += w * w;
        self.four[lane] += four * four;
        self.six[lane] += six * six;
    }

    /// What is kept of a row of `n` weights.
    #[inline(always)]
    fn row(&self, n: usize, scale: f32) -> ShadowRow {
        const UNIT: f64 = 1.0 / 16_777_216.0; // 2^-24
        const TINY: f64 = 1e-19; // above 2^-65
        let inflate = INFLATE + (n / LANES + 8) as f64 * UNIT;
        let root = |lanes: [f32; LANES]| {
            let sum: f64 = lanes.iter().map(|&lane| f64::from(lane)).sum();
            (sum.sqrt() * inflate + TINY) as f32 * (1.0 + 1e-6)
        };
        ShadowRow {
            scale,
            error_of_four: root(self.four),
            error_of_six: root(self.six),
            norm: root(self.norm),
        }
    }
}

impl ShadowVector {
    /// Rounds `x` to 16-bit integers.
    pub fn load(&mut self, x: &[f32]) {
        let n = x.len();
        self.values.resize(n, 0);
        self.high.resize(n);
        self.low.resize(n);
        self.step = f64::from(max_abs(x)) / f64::from(MOST);
        let inverse = if self.step > 0.0 { 1.0 / self.step } else { 0.0 };
        let (mut norm, mut error, mut low_squares) = (0.0, 0.0, 0.0);
        (self.sum, self.sum_high) = (0, 0);
        for i in 0..n {
            let value = (f64::from(x[i]) * inverse).round() as i16;
            let high = (i32::from(value) + 128) >> 8;
            let low = i32::from(value) - 256 * high;
            (self.values[i], self.high[i], self.low[i]) = (value, high as i8, low as i8);
            self.sum += i32::from(value);
            self.sum_high += high;
            low_squares += f64::from(low * low);
            let rest = f64::from(x[i]) - self.step * f64::from(value);
            norm += f64::from(x[i]) * f64::from(x[i]);
            error += rest * rest;
        }
        (self.norm, self.error) = (norm.sqrt() * INFLATE, error.sqrt() * INFLATE);
        self.left_out = 1.5 * (n as f64 * low_squares).sqrt() * self.step * INFLATE;
    }
}

impl ShadowVector {
    /// `w' · x'` in units of scale and step, from `dot`, the product with the four-bit plane.
    #[must_use]
    pub fn near_of_four(&self, dot: f64) -> f64 {
        4.0 * dot - 30.0 * f64::from(self.sum)
    }

    /// As [`near_of_four`](Self::near_of_four), but closer: from `dot` and from `dot_two`, the product of the two-bit
    /// plane with `high`.
    #[must_use]
    pub fn near_of_six(&self, dot: f64, dot_two: f64) -> f64 {
        self.near_of_four(dot) + 256.0 * dot_two - 384.0 * f64::from(self.sum_high)
    }
}

/// Turns exact products into upper bounds of logits, and returns the largest lower bound among them.
///
/// - `upper`: `[n]`, overwritten; `rows`: `[n]`
/// - `near`: `[n]`, from [`ShadowVector::near_of_four`] or [`ShadowVector::near_of_six`], as `precision` says
///
/// # Panics
/// If the three lengths differ.
#[inline(always)]
pub fn bounds(
    upper: &mut [f64],
    near: &[f64],
    rows: &[ShadowRow],
    x: &ShadowVector,
    precision: Precision,
) -> f64 {
    match precision {
        Precision::Four => bounds_with(upper, near, rows, x, |row| (row.error_of_four, 0.0)),
        Precision::Six => bounds_with(upper, near, rows, x, |row| (row.error_of_six, x.left_out)),
    }
}

/// As [`bounds`]. `error` returns, for a row, its distance from its levels, and what the product left out, in units of
/// the row's scale.
#[inline(always)]
fn bounds_with(
    upper: &mut [f64],
    near: &[f64],
    rows: &[ShadowRow],
    x: &ShadowVector,
    error: impl Fn(&ShadowRow) -> (f32, f64),
) -> f64 {
    assert!(upper.len() == near.len() && near.len() == rows.len(), "bounds: lengths differ");
    const UNIT: f64 = 1.0 / 16_777_216.0; // 2^-24
    let chain = (x.values.len() / 32 + 6) as f64;
    let summing = chain * UNIT * (1.0 + chain * UNIT); // at least (1 + u)^chain - 1, for any chain below 10^6
    let (of_error, of_norm) = (x.norm + x.error, x.error + summing * x.norm);
    let mut best = [f64::NEG_INFINITY; 8];
    for i in 0..upper.len() {
        let near = near[i] * f64::from(rows[i].scale) * x.step;
        let (error, left_out) = error(&rows[i]);
        let bound = f64::from(error) * of_error + f64::from(rows[i].norm) * of_norm;
        let bound = bound + f64::from(rows[i].scale) * left_out;
        let bound = bound * INFLATE + near.abs() * (INFLATE - 1.0);
        upper[i] = near + bound;
        let best = &mut best[i % 8];
        *best = if near - bound > *best { near - bound } else { *best };
    }
    best.into_iter().fold(f64::NEG_INFINITY, |most, best| if best > most { best } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u64, size: f32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                half::f16::from_f32(((state >> 40) as f32 / 8_388_608.0 - 1.0) * size).to_f32()
            })
            .collect()
    }

    /// A row's bounds from four and from six bits, each with the canonical logit between them if they hold.
    fn screen_one(w: &[f32], x: &[f32]) -> ([(f64, f64); 2], f64) {
        let (mut fours, mut twos) = (vec![0; w.len() / 2], vec![0; w.len() / 4]);
        let row = shadow_row(&mut fours, &mut twos, w);
        let mut shadow = ShadowVector::default();
        shadow.load(x);
        let (mut four, mut two) = (0_i64, 0_i64);
        for (k, &v) in shadow.values.iter().enumerate() {
            let (run, k) = (k / RUN, k % RUN);
            let byte = fours[run * RUN / 2 + k % 64];
            four += i64::from(v) * i64::from(if k < 64 { byte & 15 } else { byte >> 4 });
            two += i64::from(shadow.high[128 * run + k]) * i64::from(i2s::code(&twos[run * 32..][..32], k));
        }
        let near = [shadow.near_of_four(four as f64), shadow.near_of_six(four as f64, two as f64)];
        let bounds = [(near[0], Precision::Four), (near[1], Precision::Six)].map(|(near, precision)| {
            let mut upper = [0.0];
            let lower = bounds(&mut upper, &[near], &[row], &shadow, precision);
            (lower, upper[0])
        });
        let halves: Vec<half::f16> = w.iter().map(|&w| half::f16::from_f32(w)).collect();
        let mut y = [0.0];
        crate::kernels::Kernels::detect().gemv_f16(&mut y, &halves, x);
        (bounds, f64::from(y[0]))
    }

    #[test]
    fn every_logit_lies_between_its_bounds() {
        for seed in 0..400 {
            let n = RUN * (1 + seed as usize % 20);
            let mut w = noise(n, seed, 0.05);
            let mut x = noise(n, seed + 1000, 3.0);
            match seed % 5 {
                1 => x[seed as usize % n] = 500.0, // one value that dwarfs the others
                2 => w[seed as usize % n] = 60.0,
                3 => w.fill(0.0),
                4 => w.copy_from_slice(&x), // the largest logit there can be
                _ => {}
            }
            let (bounds, logit) = screen_one(&w, &x);
            for (lower, upper) in bounds {
                assert!(lower <= logit && logit <= upper, "seed {seed}: {lower} <= {logit} <= {upper}");
            }
        }
    }

    #[test]
    fn the_bounds_are_tight_enough_to_be_of_use() {
        let (w, x) = (noise(2560, 1, 0.05), noise(2560, 2, 3.0));
        let ([four, six], _) = screen_one(&w, &x);
        let spread = 0.05 / 3.0_f64.sqrt() * (3.0 / 3.0_f64.sqrt()) * 2560.0_f64.sqrt(); // one deviation
        assert!(four.1 - four.0 < 8.0 * spread, "{} against {spread}", four.1 - four.0);
        assert!(six.1 - six.0 < 2.0 * spread, "{} against {spread}", six.1 - six.0);
    }

    #[test]
    fn values_that_are_not_finite_exclude_nothing() {
        let x = noise(RUN, 3, 1.0);
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut w = noise(RUN, 4, 1.0);
            w[5] = bad;
            for (lower, upper) in screen_one(&w, &x).0 {
                let excludes_nothing =
                    (upper.is_nan() || upper == f64::INFINITY) && lower == f64::NEG_INFINITY;
                assert!(excludes_nothing, "{upper} {lower}");
            }
        }
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        let mut x = noise(256, 9, 7.0);
        (x[0], x[1]) = (-9.0, 9.0);
        let mut s = ShadowVector::default();
        s.load(&x);
        for i in 0..x.len() {
            assert_eq!(i32::from(s.values[i]), 256 * i32::from(s.high[i]) + i32::from(s.low[i]));
        }
        assert_eq!((s.values[0], s.values[1]), (-MOST, MOST));
        assert_eq!(s.sum, s.values.iter().map(|&v| i32::from(v)).sum::<i32>());
        assert_eq!(s.sum_high, s.high.iter().map(|&v| i32::from(v)).sum::<i32>());
    }
}
