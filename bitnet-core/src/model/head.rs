//! The output head, screened: a shadow of it in few bits decides which rows can have the largest logits, and only those
//! are evaluated.
//!
//! [`crate::ops::screen`] proves the bounds. A row whose upper bound lies below `k` lower bounds of other rows is
//! not among the `k` largest; it is reported as minus infinity. Every other row gets its canonical logit, so the
//! largest logit, the `k` largest, and their ties are those of the full head, to the bit.
//!
//! Rows are sifted twice: all of them by four bits, which are a quarter of the head's bytes, and those that are left by
//! two bits more. In between, `k` rows that look largest are evaluated. At least `k` logits reach the least of theirs,
//! which mostly says more than lower bounds do. Where a model is sure of what comes next, the largest logits stand out so far
//! that four bits leave only a handful of rows.

use super::matrix::{Format, Matrix};
use crate::kernels::Kernels;
use crate::ops::screen::{MAX_COLS, Precision, RUN, ShadowRow, ShadowVector};
use crate::pages::Pages;
use crate::team::{Share, Team};
use crate::trace::trace_timing;

/// Rows whose bounds are computed together.
const CHUNK: usize = 256;

/// A six-bit shadow of an f16 head, in two planes.
#[derive(Debug)]
pub struct Screen {
    /// `[n_vocab, n_embd / 2]`
    fours: Pages<u8>,
    /// `[n_vocab, n_embd / 4]`
    twos: Pages<u8>,
    /// `[n_vocab]`
    rows: Vec<ShadowRow>,
    n_embd: usize,
}

/// The working memory of one session's screening. Vectors have a value for each row, padded to whole chunks, or one for
/// each chunk.
#[derive(Debug, Default)]
pub struct Screening {
    x: ShadowVector,
    n_rows: usize,
    /// Product of each row's four-bit plane with the vector.
    dots: Vec<f64>,
    /// Upper bound of each row.
    upper: Vec<f64>,
    /// Largest lower bound of each chunk's rows.
    lower: Vec<f64>,
    /// How many rows of each chunk are left after four bits: as f64, since one cut among threads takes values of one
    /// type.
    left: Vec<f64>,
    /// Numbers of the chunks, those with the largest lower bounds first.
    ordered: Vec<u32>,
    /// The rows that are evaluated.
    candidates: Vec<u32>,
    sifted: Sifted,
}

/// Counters of a screened head: how many rows were examined how closely, added up over steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sifted {
    /// Vectors screened.
    pub n_steps: u64,
    /// Rows whose four bits did not decide.
    pub n_refined: u64,
    /// Rows whose six bits did not decide, and whose logit was computed.
    pub n_evaluated: u64,
}

impl std::ops::AddAssign for Sifted {
    fn add_assign(&mut self, more: Sifted) {
        self.n_steps += more.n_steps;
        self.n_refined += more.n_refined;
        self.n_evaluated += more.n_evaluated;
    }
}

impl std::ops::Sub for Sifted {
    type Output = Sifted;

    /// What came since `before`.
    fn sub(self, before: Sifted) -> Sifted {
        Sifted {
            n_steps: self.n_steps - before.n_steps,
            n_refined: self.n_refined - before.n_refined,
            n_evaluated: self.n_evaluated - before.n_evaluated,
        }
    }
}

/// Whether a head `[n_vocab, n_embd]` may have a shadow, and is large enough for one to pay.
fn serves(n_vocab: usize, n_embd: usize) -> bool {
    n_embd.is_multiple_of(RUN) && n_embd <= MAX_COLS && n_vocab >= 16 * CHUNK
}

impl Screen {
    /// The shadow of `head`; `None` if the head is not f16, has few rows, rows that are too long or not whole runs of
    /// [`RUN`], or if there is no memory.
    #[must_use]
    pub fn new(head: &Matrix, team: &Team, kernels: &Kernels) -> Option<Screen> {
        let (n_vocab, n_embd) = (head.rows(), head.cols());
        if head.format() != Format::F16 || !serves(n_vocab, n_embd) {
            return None;
        }
        let mut fours = Pages::<u8>::zeroed(n_vocab.checked_mul(n_embd / 2)?)?;
        let mut twos = Pages::<u8>::zeroed(n_vocab * (n_embd / 4))?;
        let mut rows = Vec::new();
        rows.try_reserve_exact(n_vocab).ok()?;
        rows.resize(n_vocab, ShadowRow::default());
        let planes = fours.chunks_mut(CHUNK * (n_embd / 2)).zip(twos.chunks_mut(CHUNK * (n_embd / 4)));
        let chunks: Vec<_> = planes.zip(rows.chunks_mut(CHUNK)).enumerate().collect();
        team.enter(|| {
            team.each(chunks, |(i, ((fours, twos), rows))| {
                let mut w = vec![0.0; n_embd];
                let planes = fours.chunks_exact_mut(n_embd / 2).zip(twos.chunks_exact_mut(n_embd / 4));
                for (r, ((fours, twos), row)) in planes.zip(rows).enumerate() {
                    head.dequantize_row(i * CHUNK + r, &mut w);
                    *row = kernels.shadow_row(fours, twos, &w);
                }
            });
        });
        Some(Screen { fours, twos, rows, n_embd })
    }

    /// Bytes of the shadow.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.fours.len() + self.twos.len() + size_of_val(&self.rows[..])
    }

    /// Bytes that the steps counted in `sifted` read, those of the rows evaluated in the end included.
    #[must_use]
    pub fn bytes_read(&self, sifted: Sifted) -> u64 {
        let whole = self.fours.len() + size_of_val(&self.rows[..]);
        sifted.n_steps * whole as u64
            + sifted.n_refined * (self.n_embd / 4) as u64
            + sifted.n_evaluated * (self.n_embd * 2) as u64
    }

    /// Logits of the `k` largest rows and perhaps a few more; minus infinity for the rest. Returns how many are given.
    ///
    /// - `logits`: `[n_vocab]`, overwritten; `x`: `[n_embd]`, values an f16 can hold
    #[trace_timing(screened_head, bytes = self.fours.len())]
    pub fn top(
        &self,
        k: usize,
        head: &Matrix,
        (team, kernels): (&Team, &Kernels),
        logits: &mut [f32],
        x: &[f32],
        work: &mut Screening,
    ) -> usize {
        work.load(x, self.rows.len());
        self.by_four_bits((team, kernels), work);
        let reached = work.reached(k, |r| f64::from(head.logit(kernels, r, x)));
        self.by_six_bits((team, kernels), work, reached);
        work.pick_candidates(k, reached);
        logits.fill(f32::NEG_INFINITY);
        rescore(head, kernels, logits, x, &work.candidates);
        work.candidates.len()
    }

    /// Bounds of all rows from four bits.
    fn by_four_bits(&self, (team, kernels): (&Team, &Kernels), work: &mut Screening) {
        let Screening { x, dots, upper, lower, .. } = work;
        // Each has as many units, so that all are cut between the same chunks.
        let shares = [(dots, CHUNK), (upper, CHUNK), (lower, 1)].map(|(v, unit)| Share { values: v, unit });
        team.split(shares, |[dots, upper, lower]| {
            let mut near = [0.0; CHUNK];
            let chunks = dots.values.chunks_exact_mut(CHUNK).zip(upper.values.chunks_exact_mut(CHUNK));
            for (first, ((dots, upper), lower)) in
                (upper.first..).step_by(CHUNK).zip(chunks.zip(lower.values))
            {
                let rows = &self.rows[first..self.rows.len().min(first + CHUNK)];
                let (dots, near) = (&mut dots[..rows.len()], &mut near[..rows.len()]);
                let row_bytes = self.n_embd / 2;
                kernels.dot_u4(dots, &self.fours[first * row_bytes..][..rows.len() * row_bytes], x);
                for (near, dot) in near.iter_mut().zip(dots) {
                    *near = x.near_of_four(*dot);
                }
                *lower = kernels.bounds(&mut upper[..rows.len()], near, rows, x, Precision::Four);
            }
        });
    }

    /// Closer bounds, from six bits, of the rows whose upper bound is not below `least`.
    fn by_six_bits(&self, (team, kernels): (&Team, &Kernels), work: &mut Screening, least: f64) {
        let Screening { x, dots, upper, lower, left, .. } = work;
        let shares = [(upper, CHUNK), (lower, 1), (left, 1)].map(|(v, unit)| Share { values: v, unit });
        team.split(shares, |[upper, lower, left]| {
            let (mut picked, mut rows) = ([0; CHUNK], [ShadowRow::default(); CHUNK]);
            let (mut near, mut bounds) = ([0.0; CHUNK], [0.0; CHUNK]);
            let chunks = upper.values.chunks_exact_mut(CHUNK).zip(lower.values.iter_mut().zip(left.values));
            for (first, (upper, (lower, left))) in (upper.first..).step_by(CHUNK).zip(chunks) {
                let n = pick(&mut picked, &upper[..CHUNK.min(self.rows.len() - first)], least);
                *left = n as f64;
                if n == 0 {
                    continue;
                }
                let (picked, near, bounds) = (&picked[..n], &mut near[..n], &mut bounds[..n]);
                let of_chunk = &self.twos[first * (self.n_embd / 4)..];
                let of_chunk = &of_chunk[..of_chunk.len().min(CHUNK * (self.n_embd / 4))];
                kernels.dot_u2(near, of_chunk, picked, &x.high);
                for (i, &r) in picked.iter().enumerate() {
                    rows[i] = self.rows[first + r as usize];
                    near[i] = x.near_of_six(dots[first + r as usize], near[i]);
                }
                *lower = lower.max(kernels.bounds(bounds, near, &rows[..n], x, Precision::Six));
                for (bound, &r) in bounds.iter().zip(picked) {
                    upper[r as usize] = *bound;
                }
            }
        });
    }
}

/// Writes the numbers of the bounds that are not below `least`, and returns how many there are. A NaN is not below
/// anything, so that it excludes no row.
fn pick(picked: &mut [u32; CHUNK], upper: &[f64], least: f64) -> usize {
    // Most often there are none, which counting finds out quickly.
    if upper.iter().filter(|&&upper| upper < least).count() == upper.len() {
        return 0;
    }
    let mut n = 0;
    for (r, &upper) in upper.iter().enumerate() {
        picked[n.min(CHUNK - 1)] = r as u32;
        n += 1 - usize::from(upper < least);
    }
    n
}

/// Writes the canonical logits of `rows`.
#[trace_timing(rescore, rows = rows.len(), bytes = 2 * rows.len() * x.len())]
fn rescore(head: &Matrix, kernels: &Kernels, logits: &mut [f32], x: &[f32], rows: &[u32]) {
    for &r in rows {
        logits[r as usize] = head.logit(kernels, r as usize, x);
    }
}

impl Screening {
    /// Counters of the rows examined so far.
    #[must_use]
    pub fn sifted(&self) -> Sifted {
        self.sifted
    }

    fn load(&mut self, x: &[f32], n_rows: usize) {
        let n_chunks = n_rows.div_ceil(CHUNK);
        self.x.load(x);
        self.n_rows = n_rows;
        self.dots.resize(n_chunks * CHUNK, 0.0);
        self.upper.resize(n_chunks * CHUNK, 0.0);
        self.lower.resize(n_chunks, f64::NEG_INFINITY);
        self.left.resize(n_chunks, 0.0);
        self.ordered.reserve(n_chunks);
        self.candidates.reserve(n_rows);
    }

    /// A value that at least `k` logits reach, by their lower bounds: the `k`-th largest among the chunks' largest.
    /// Puts those `k` chunks first in `ordered`.
    fn kth_lower_bound(&mut self, k: usize) -> f64 {
        if k == 0 || k > self.lower.len() {
            return f64::NEG_INFINITY;
        }
        let lower = |&chunk: &u32| known(self.lower[chunk as usize]);
        self.ordered.clear();
        self.ordered.extend(0..self.lower.len() as u32);
        lower(self.ordered.select_nth_unstable_by(k - 1, |a, b| lower(b).total_cmp(&lower(a))).1)
    }

    /// A value that at least `k` logits reach: the least `logit` of the rows that look largest in the `k` best chunks,
    /// or what the bounds promise, if that is more.
    fn reached(&mut self, k: usize, logit: impl Fn(usize) -> f64) -> f64 {
        let by_bounds = self.kth_lower_bound(k);
        if by_bounds == f64::NEG_INFINITY {
            return by_bounds;
        }
        let by_logits = self.ordered[..k].iter().map(|&chunk| {
            let first = chunk as usize * CHUNK;
            let rows = &self.upper[first..self.n_rows.min(first + CHUNK)];
            let largest = (1..rows.len()).fold(0, |best, r| if rows[r] > rows[best] { r } else { best });
            known(logit(first + largest))
        });
        by_logits.fold(f64::INFINITY, f64::min).max(by_bounds)
    }

    /// Collects the rows that six bits leave, given that at least `k` logits reach `reached`.
    fn pick_candidates(&mut self, k: usize, reached: f64) {
        let least = self.kth_lower_bound(k).max(reached);
        let mut picked = [0; CHUNK];
        self.candidates.clear();
        for (i, (upper, &left)) in self.upper[..self.n_rows].chunks(CHUNK).zip(&self.left).enumerate() {
            if left > 0.0 {
                let n = pick(&mut picked, upper, least);
                self.candidates.extend(picked[..n].iter().map(|r| (i * CHUNK) as u32 + r));
            }
        }
        self.sifted.n_steps += 1;
        self.sifted.n_refined += self.left.iter().sum::<f64>() as u64;
        self.sifted.n_evaluated += self.candidates.len() as u64;
    }
}

/// A bound that is NaN promises nothing.
fn known(bound: f64) -> f64 {
    if bound.is_nan() { f64::NEG_INFINITY } else { bound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Access, Gguf, GgufWriter, TensorType};
    use crate::quant::ternary::Reading;
    use half::f16;
    use std::sync::Arc;

    const N_EMBD: usize = 128;
    const N_VOCAB: usize = 16 * CHUNK + 77;

    #[test]
    fn a_head_too_wide_too_small_or_of_broken_runs_has_no_shadow() {
        assert!(serves(N_VOCAB, N_EMBD) && serves(N_VOCAB, MAX_COLS));
        assert!(!serves(N_VOCAB, MAX_COLS + RUN) && !serves(N_VOCAB, N_EMBD + 1) && !serves(CHUNK, N_EMBD));
    }

    /// A head of these rows in a file of its own.
    fn head_of(rows: &[f16], kernels: &Kernels) -> (tempfile::TempDir, Matrix) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.gguf");
        let mut writer = GgufWriter::new();
        writer.declare("token_embd.weight", TensorType::F16, &[N_VOCAB, N_EMBD]).unwrap();
        writer.write_file(&path, |out| out.tensor("token_embd.weight", bytemuck::cast_slice(rows))).unwrap();
        let gguf = Arc::new(Gguf::open(&path, Access::Read).unwrap());
        let head =
            Matrix::new(&gguf, kernels, &Reading::default(), "token_embd.weight", [N_VOCAB, N_EMBD]).unwrap();
        (dir, head)
    }

    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f16::from_f32((self.0 >> 40) as f32 / 8_388_608.0 - 1.0).to_f32()
        }
    }

    /// The `k` largest logits and every tie with the last of them equal those of the full head.
    fn check(rows: &[f16], x: &[f32], what: &str) {
        for kernels in Kernels::all() {
            let (_dir, head) = head_of(rows, kernels);
            let mut full = vec![0.0; N_VOCAB];
            kernels.gemv_f16(&mut full, rows, x);
            let mut order: Vec<usize> = (0..N_VOCAB).collect();
            order.sort_by(|&a, &b| full[b].total_cmp(&full[a]).then(a.cmp(&b)));
            for n_threads in [1, 3] {
                let team = Team::new(Some(n_threads)).unwrap();
                let screen = Screen::new(&head, &team, kernels).unwrap();
                let mut work = Screening::default();
                for k in [1, 2, 10, 16] {
                    let mut logits = vec![0.0; N_VOCAB];
                    let n = screen.top(k, &head, (&team, kernels), &mut logits, x, &mut work);
                    let least = full[order[k - 1]];
                    for (r, (&got, &exact)) in logits.iter().zip(&full).enumerate() {
                        let kept = got.to_bits() == exact.to_bits();
                        let left_out = got == f32::NEG_INFINITY && exact < least;
                        assert!(
                            kept || left_out,
                            "{what}, {kernels:?}, k = {k}: row {r} is {got}, not {exact}"
                        );
                    }
                    assert!(n >= k, "{what}: {n} rows evaluated for k = {k}");
                }
            }
        }
    }

    #[test]
    fn random_heads_keep_their_largest() {
        let mut noise = Noise(1);
        for round in 0..3 {
            let rows: Vec<f16> = (0..N_VOCAB * N_EMBD).map(|_| f16::from_f32(noise.next())).collect();
            let x: Vec<f32> = (0..N_EMBD).map(|_| noise.next() * 4.0).collect();
            check(&rows, &x, &format!("round {round}"));
        }
    }

    /// Two rows reach the smaller logit of those that look largest in the two best chunks, or what the bounds promise,
    /// if that is more. A logit that is NaN promises nothing.
    #[test]
    fn what_logits_reach_is_known_from_the_rows_that_look_largest() {
        let mut work =
            Screening { n_rows: 3 * CHUNK, lower: vec![1.0, f64::NAN, 0.5], ..Screening::default() };
        work.upper = vec![0.0; 3 * CHUNK];
        (work.upper[7], work.upper[2 * CHUNK + 9]) = (3.0, 2.0);
        let logits = |seven: f64| move |r: usize| if r == 7 { seven } else { (r - 2 * CHUNK) as f64 / 5.0 };
        assert_eq!(work.reached(2, logits(2.5)), 1.8);
        assert_eq!(work.reached(2, logits(1.5)), 1.5);
        assert_eq!(work.reached(2, logits(0.25)), 0.5);
        assert_eq!(work.reached(2, logits(f64::NAN)), 0.5);
        assert_eq!(work.reached(1, logits(2.5)), 2.5);
        assert_eq!(work.reached(4, logits(2.5)), f64::NEG_INFINITY, "more than there are chunks");
    }

    /// Runners-up one unit in the last place of one weight below the best, and exact ties, in the first and the
    /// last chunk: no bound may tell them apart wrongly.
    #[test]
    fn runners_up_within_one_unit_in_the_last_place_survive() {
        let mut noise = Noise(2);
        let x: Vec<f32> = (0..N_EMBD).map(|_| noise.next()).collect();
        let mut rows: Vec<f16> = (0..N_VOCAB * N_EMBD).map(|_| f16::from_f32(noise.next() * 0.1)).collect();
        let best: Vec<f16> = x.iter().map(|&x| f16::from_f32(x * 0.5)).collect();
        for (i, r) in [3, 255, 256, 4095, N_VOCAB - 1, 1000, 2000].into_iter().enumerate() {
            let row = &mut rows[r * N_EMBD..][..N_EMBD];
            row.copy_from_slice(&best);
            if i % 2 == 1 {
                let w = row[i];
                row[i] = f16::from_bits(w.to_bits() ^ 1);
            }
        }
        check(&rows, &x, "near ties");
    }

    #[test]
    fn rows_and_vectors_that_are_not_finite_lose_nothing() {
        let mut noise = Noise(3);
        let mut rows: Vec<f16> = (0..N_VOCAB * N_EMBD).map(|_| f16::from_f32(noise.next())).collect();
        rows[5 * N_EMBD] = f16::INFINITY;
        rows[700 * N_EMBD + 3] = f16::NEG_INFINITY;
        let mut x: Vec<f32> = (0..N_EMBD).map(|_| noise.next()).collect();
        check(&rows, &x, "infinite weights");
        x[9] = f32::INFINITY;
        let kernels = Kernels::detect();
        let (_dir, head) = head_of(&rows, kernels);
        let team = Team::new(Some(2)).unwrap();
        let screen = Screen::new(&head, &team, kernels).unwrap();
        let mut logits = vec![0.0; N_VOCAB];
        let n = screen.top(1, &head, (&team, kernels), &mut logits, &x, &mut Screening::default());
        assert_eq!(n, N_VOCAB, "with an infinite activation every row is evaluated");
    }
}
