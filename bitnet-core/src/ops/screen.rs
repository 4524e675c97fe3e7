//! Cheap, rigorous bounds on the logits of an f16 head, from an int8 shadow of its rows.
//!
//! A logit is `w · x` with `x` rounded to f16, summed in f32 in the canonical order. Let `w'` be the row rounded to
//! int8 times a scale, and `x'` the vector rounded to 16-bit integers times a step. In exact arithmetic
//!
//! ```text
//! w·x - w'·x' = (w - w')·x + w'·(x - x')        so, by Cauchy and Schwarz,
//! |w·x - w'·x'| <= |w - w'| |x| + |w'| |x - x'|
//! ```
//!
//! The canonical sum is not exact: each lane chains `n / 32` additions, and five more join the lanes, each rounding
//! by at most `u = 2^-24` of its result. The products are exact, and no partial sum exceeds the sum of their
//! sizes, which Cauchy and Schwarz bound by `|w| |x|`. So the logit differs from `w·x` by at most
//! `((1 + u)^(n/32 + 6) - 1) |w| |x|`, the sixth for the rounding after a tail.
//!
//! `w'·x'` itself is an integer, computed exactly, times a scale and a step. Norms and bounds are computed in f64 and
//! inflated by far more than f64 can lose. A row with a value that is not finite gets an infinite bound, and a vector
//! with one makes every bound infinite or NaN, which excludes no row.

/// What is kept of a row beside its int8 values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShadowRow {
    /// `w' = scale * q`.
    pub scale: f32,
    /// At least `|w - w'|`.
    pub error: f32,
    /// At least `|w|`.
    pub norm: f32,
}

/// A vector as 16-bit integers, whole and as two halves: `value = 256 * high + low`.
#[derive(Debug, Clone, Default)]
pub struct ShadowVector {
    /// `[n]`, at most [`MOST`] in size.
    pub values: Vec<i16>,
    /// `[n]`
    pub high: Vec<i8>,
    /// `[n]`
    pub low: Vec<i8>,
    /// Sum of `high`.
    pub sum_high: i32,
    /// Sum of `low`.
    pub sum_low: i32,
    /// `x' = step * values`.
    step: f64,
    /// At least `|x|`.
    norm: f64,
    /// At least `|x - x'|`.
    error: f64,
}

/// The largest value of a [`ShadowVector`]: its high half is 127.
pub const MOST: i16 = 127 * 256;

/// Covers what f64 sums of a few thousand terms, and a conversion to f32, can lose.
const INFLATE: f64 = 1.0 + 1e-6;

/// Rounds a row to int8.
///
/// # Panics
/// If `q` and `w` differ in length.
#[inline(always)]
pub fn shadow_row(q: &mut [i8], w: &[f32]) -> ShadowRow {
    assert_eq!(q.len(), w.len(), "shadow_row: q has {} values, w has {}", q.len(), w.len());
    let max = max_abs(w);
    let scale = max / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let (mut error, mut norm) = ([0.0_f64; 8], [0.0_f64; 8]);
    for (q, w) in q.chunks_mut(8).zip(w.chunks(8)) {
        for i in 0..w.len() {
            let v = (w[i] * inverse).clamp(-127.0, 127.0);
            let rounded = (v + 12_582_912.0).to_bits() as i32 - 0x4b40_0000; // half to even
            q[i] = rounded as i8;
            let (w, rest) = (f64::from(w[i]), f64::from(w[i]) - f64::from(scale) * f64::from(q[i]));
            norm[i] += w * w;
            error[i] += rest * rest;
        }
    }
    let root = |lanes: [f64; 8]| (lanes.iter().sum::<f64>().sqrt() * INFLATE) as f32 * (1.0 + 1e-6);
    let row = ShadowRow { scale, error: root(error), norm: root(norm) };
    if row.scale.is_finite() && row.norm.is_finite() && row.error.is_finite() {
        row
    } else {
        q.fill(0);
        ShadowRow { scale: 0.0, error: f32::INFINITY, norm: f32::INFINITY }
    }
}

#[inline(always)]
fn max_abs(w: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for w in w.chunks(16) {
        for i in 0..w.len() {
            lanes[i] = if w[i].abs() > lanes[i] { w[i].abs() } else { lanes[i] };
        }
    }
    lanes.iter().fold(0.0, |max, &v| if v > max { v } else { max })
}

impl ShadowVector {
    /// Rounds `x` to 16-bit integers.
    pub fn load(&mut self, x: &[f32]) {
        let n = x.len();
        self.values.resize(n, 0);
        self.high.resize(n, 0);
        self.low.resize(n, 0);
        self.step = f64::from(max_abs(x)) / f64::from(MOST);
        let inverse = if self.step > 0.0 { 1.0 / self.step } else { 0.0 };
        let (mut norm, mut error) = (0.0, 0.0);
        (self.sum_high, self.sum_low) = (0, 0);
        for i in 0..n {
            let value = (f64::from(x[i]) * inverse).round() as i16;
            let high = (i32::from(value) + 128) >> 8;
            let low = i32::from(value) - 256 * high;
            (self.values[i], self.high[i], self.low[i]) = (value, high as i8, low as i8);
            self.sum_high += high;
            self.sum_low += low;
            let rest = f64::from(x[i]) - self.step * f64::from(value);
            norm += f64::from(x[i]) * f64::from(x[i]);
            error += rest * rest;
        }
        (self.norm, self.error) = (norm.sqrt() * INFLATE, error.sqrt() * INFLATE);
    }
}

/// Turns exact integer products into upper bounds of logits, and returns the largest lower bound among them.
///
/// - `upper`: `[n]`, overwritten; `dots`: `[n]`, `q · values`; `rows`: `[n]`
///
/// # Panics
/// If the three lengths differ.
#[inline(always)]
pub fn bounds(upper: &mut [f32], dots: &[f64], rows: &[ShadowRow], x: &ShadowVector) -> f32 {
    assert!(upper.len() == dots.len() && dots.len() == rows.len(), "bounds: lengths differ");
    const UNIT: f64 = 1.0 / 16_777_216.0; // 2^-24
    let chain = (x.values.len() / 32 + 6) as f64;
    let summing = chain * UNIT * (1.0 + chain * UNIT); // at least (1 + u)^chain - 1, for any chain below 10^6
    let (of_error, of_norm) = (x.norm + x.error, x.error + summing * x.norm);
    let mut best = f64::NEG_INFINITY;
    for i in 0..upper.len() {
        let near = dots[i] * f64::from(rows[i].scale) * x.step;
        let bound = f64::from(rows[i].error) * of_error + f64::from(rows[i].norm) * of_norm;
        let bound = (bound + near.abs() * 4.0 * UNIT) * INFLATE;
        upper[i] = (near + bound) as f32;
        best = if near - bound > best { near - bound } else { best };
    }
    // Rounded down, so that it stays a lower bound.
    let best_f32 = best as f32;
    if f64::from(best_f32) > best { best_f32.next_down() } else { best_f32 }
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

    /// Upper bound, largest lower bound and canonical logit of one row.
    fn screen_one(w: &[f32], x: &[f32]) -> (f32, f32, f32) {
        let mut q = vec![0; w.len()];
        let row = shadow_row(&mut q, w);
        let mut shadow = ShadowVector::default();
        shadow.load(x);
        let dot: i64 = q.iter().zip(&shadow.values).map(|(&q, &v)| i64::from(q) * i64::from(v)).sum();
        let mut upper = [0.0];
        let lower = bounds(&mut upper, &[dot as f64], &[row], &shadow);
        let halves: Vec<half::f16> = w.iter().map(|&w| half::f16::from_f32(w)).collect();
        let mut y = [0.0];
        crate::kernels::Kernels::detect().gemv_f16(&mut y, &halves, x);
        (upper[0], lower, y[0])
    }

    #[test]
    fn every_logit_lies_between_its_bounds() {
        for seed in 0..400 {
            let n = 64 * (1 + seed as usize % 40);
            let mut w = noise(n, seed, 0.05);
            let mut x = noise(n, seed + 1000, 3.0);
            match seed % 4 {
                1 => x[seed as usize % n] = 500.0, // one value that dwarfs the others
                2 => w[seed as usize % n] = 60.0,
                3 => w.fill(0.0),
                _ => {}
            }
            let (upper, lower, logit) = screen_one(&w, &x);
            assert!(lower <= logit && logit <= upper, "seed {seed}: {lower} <= {logit} <= {upper}");
        }
    }

    #[test]
    fn the_bounds_are_tight_enough_to_be_of_use() {
        let (w, x) = (noise(2560, 1, 0.05), noise(2560, 2, 3.0));
        let (upper, lower, _) = screen_one(&w, &x);
        let spread = 0.05 / 3.0_f32.sqrt() * (3.0 / 3.0_f32.sqrt()) * 2560.0_f32.sqrt(); // one deviation
        assert!(upper - lower < 0.7 * spread, "{} against {spread}", upper - lower);
    }

    #[test]
    fn values_that_are_not_finite_exclude_nothing() {
        let x = noise(64, 3, 1.0);
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut w = noise(64, 4, 1.0);
            w[5] = bad;
            let (upper, lower, _) = screen_one(&w, &x);
            assert!(
                (upper.is_nan() || upper == f32::INFINITY) && lower == f32::NEG_INFINITY,
                "{upper} {lower}"
            );
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
        assert_eq!(s.sum_high, s.high.iter().map(|&h| i32::from(h)).sum::<i32>());
        assert_eq!(s.sum_low, s.low.iter().map(|&l| i32::from(l)).sum::<i32>());
    }
}
