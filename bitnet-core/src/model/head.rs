//! The output head, screened: which rows can hold the largest logits is decided on an int8 shadow of half the
//! bytes, and only those are evaluated.
//!
//! [`crate::ops::screen`] proves the bounds. A row whose upper bound lies below `k` lower bounds of other rows is
//! not among the `k` largest; it is reported as minus infinity. Every other row gets its canonical logit, so the
//! largest logit, the `k` largest, and their ties are those of the full head, to the bit.

use super::matrix::{Format, Matrix};
use crate::kernels::Kernels;
use crate::ops::screen::{ShadowRow, ShadowVector};
use crate::pages::Pages;
use crate::team::{Share, Team};
use crate::trace::trace_timing;

/// Rows that are bounded together.
const CHUNK: usize = 256;

/// An int8 shadow of an f16 head.
#[derive(Debug)]
pub struct Screen {
    /// `[n_vocab, n_embd]`
    q: Pages<i8>,
    /// `[n_vocab]`
    rows: Vec<ShadowRow>,
    n_embd: usize,
}

/// The working memory of one session's screening.
#[derive(Debug, Default)]
pub struct Screening {
    x: ShadowVector,
    /// Upper bound of each row, in whole chunks.
    upper: Vec<f32>,
    /// Largest lower bound of each chunk of rows.
    lower: Vec<f32>,
    candidates: Vec<u32>,
}

impl Screen {
    /// The shadow of `head`; `None` where one does not serve: a head that is not f16, or of odd or small size.
    #[must_use]
    pub fn new(head: &Matrix, team: &Team, kernels: &Kernels) -> Option<Screen> {
        let (n_vocab, n_embd) = (head.rows(), head.cols());
        if head.format() != Format::F16 || !n_embd.is_multiple_of(64) || n_vocab < 16 * CHUNK {
            return None;
        }
        let mut q = Pages::<i8>::zeroed(n_vocab.checked_mul(n_embd)?)?;
        let mut rows = vec![ShadowRow::default(); n_vocab];
        let chunks: Vec<_> = q.chunks_mut(CHUNK * n_embd).zip(rows.chunks_mut(CHUNK)).enumerate().collect();
        team.enter(|| {
            team.each(chunks, |(i, (q, rows))| {
                let mut w = vec![0.0; n_embd];
                for (r, (q, row)) in q.chunks_exact_mut(n_embd).zip(rows).enumerate() {
                    head.expand_row(i * CHUNK + r, &mut w);
                    *row = kernels.shadow_row(q, &w);
                }
            });
        });
        Some(Screen { q, rows, n_embd })
    }

    /// Bytes of the shadow: what one screening reads.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.q.len() + size_of_val(&self.rows[..])
    }

    /// Logits of the `k` largest rows and perhaps a few more; minus infinity for the rest. Returns how many rows
    /// were evaluated.
    ///
    /// - `logits`: `[n_vocab]`, overwritten; `x`: `[n_embd]`, values an f16 can hold
    #[trace_timing(screened_head, bytes = self.n_bytes())]
    pub fn top(
        &self,
        k: usize,
        head: &Matrix,
        (team, kernels): (&Team, &Kernels),
        logits: &mut [f32],
        x: &[f32],
        work: &mut Screening,
    ) -> usize {
        self.bound((team, kernels), x, work);
        let least = work.kth_lower_bound(k);
        logits.fill(f32::NEG_INFINITY);
        work.candidates.clear();
        for (r, upper) in work.upper[..logits.len()].iter().enumerate() {
            if *upper >= least || upper.is_nan() {
                work.candidates.push(r as u32);
            }
        }
        rescore(head, kernels, logits, x, &work.candidates);
        work.candidates.len()
    }

    /// Upper bounds of all rows, and the largest lower bound of each chunk.
    fn bound(&self, (team, kernels): (&Team, &Kernels), x: &[f32], work: &mut Screening) {
        let n_chunks = self.rows.len().div_ceil(CHUNK);
        work.x.load(x);
        work.upper.resize(n_chunks * CHUNK, f32::NEG_INFINITY);
        work.lower.resize(n_chunks, f32::NEG_INFINITY);
        work.candidates.reserve(self.rows.len());
        let vector = &work.x;
        // As many units in one as in the other, so that both are cut between the same chunks.
        let shares =
            [Share { values: &mut work.upper, unit: CHUNK }, Share { values: &mut work.lower, unit: 1 }];
        team.split(shares, |[upper, lower]| {
            let mut dots = [0.0; CHUNK];
            let chunks = upper.values.chunks_exact_mut(CHUNK).zip(lower.values);
            for (first, (upper, lower)) in (upper.first..).step_by(CHUNK).zip(chunks) {
                let rows = &self.rows[first..self.rows.len().min(first + CHUNK)];
                let q = &self.q[first * self.n_embd..][..rows.len() * self.n_embd];
                let dots = &mut dots[..rows.len()];
                kernels.dot_i8(dots, q, vector);
                *lower = kernels.bounds(&mut upper[..rows.len()], dots, rows, vector);
            }
        });
    }
}

/// The canonical logits of `rows`.
#[trace_timing(rescore, rows = rows.len(), bytes = 2 * rows.len() * x.len())]
fn rescore(head: &Matrix, kernels: &Kernels, logits: &mut [f32], x: &[f32], rows: &[u32]) {
    for &r in rows {
        head.logit(kernels, r as usize, x, &mut logits[r as usize]);
    }
}

impl Screening {
    /// A bound that at least `k` logits reach: the `k`-th largest among the chunks' largest lower bounds.
    fn kth_lower_bound(&mut self, k: usize) -> f32 {
        let n = self.lower.len();
        if k == 0 || k > n {
            return f32::NEG_INFINITY;
        }
        // NaN counts as the least: it promises nothing.
        let key = |v: &f32| if v.is_nan() { f32::NEG_INFINITY } else { *v };
        *self.lower.select_nth_unstable_by(k - 1, |a, b| key(b).total_cmp(&key(a))).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Access, Gguf, GgufWriter, TensorType};
    use crate::kernels::Isa;
    use crate::quant::ternary::Reading;
    use half::f16;
    use std::sync::Arc;

    const N_EMBD: usize = 128;
    const N_VOCAB: usize = 16 * CHUNK + 77;

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
        for isa in Isa::available() {
            let kernels = Kernels::for_isa(isa).unwrap();
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
                        assert!(kept || left_out, "{what}, {isa}, k = {k}: row {r} is {got}, not {exact}");
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
