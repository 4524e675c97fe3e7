//! AVX2 products of f16 values: the output head, and attention.
//!
//! The 32 lanes of a sum are four registers, `v0..v3` of the canonical order.
#![expect(unsafe_code, reason = "loads through pointers taken from slices of checked length")]

use std::arch::x86_64::*;

use half::f16;

use super::avx2::{AHEAD, prefetch};
use super::{Values, scalar};
use crate::trace::trace_timing;

#[trace_timing(avx2_gemv_f16)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemv_f16(y: &mut [f32], w: &[f16], x: &[f32]) {
    for (y, row) in y.iter_mut().zip(w.chunks_exact(x.len())) {
        *y = dot(row, x);
    }
}

/// The 32-lane dot product of two rows, one of f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(row: &[f16], x: &[f32]) -> f32 {
    let mut acc = [_mm256_setzero_ps(); 4];
    let ((runs, rest), (x_runs, x_rest)) = (row.as_chunks(), x.as_chunks());
    for (run, x) in runs.iter().zip(x_runs) {
        prefetch(run.as_ptr().cast::<u8>().wrapping_add(AHEAD));
        add_run(&mut acc, run, x);
    }
    scalar::dot16_rest(reduce(acc), rest, x_rest)
}

/// Adds 32 products to a sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_run(acc: &mut [__m256; 4], run: &[f16; 32], x: &[f32; 32]) {
    for (v, acc) in acc.iter_mut().enumerate() {
        *acc = _mm256_fmadd_ps(load_f16(&run[8 * v..]), load_f32(&x[8 * v..]), *acc);
    }
}

/// 8 f32 values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f32(x: &[f32]) -> __m256 {
    let x: &[f32; 8] = x.first_chunk().expect("8 values are left");
    // SAFETY: 8 readable values by type; this load accepts any alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// 8 f16 values, widened.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f16(v: &[f16]) -> __m256 {
    let v: &[f16; 8] = v.first_chunk().expect("8 values are left");
    // SAFETY: 16 readable bytes by type; this load accepts any alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(v.as_ptr().cast()) })
}

/// Joins 32 lanes in the canonical order: `(v0 + v2) + (v1 + v3)`, then halves, and neighbours.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn reduce(v: [__m256; 4]) -> f32 {
    let u = _mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[1], v[3]));
    let t = _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps::<1>(u));
    let pairs = _mm_add_ps(t, _mm_movehdup_ps(t)); // t0 + t1, _, t2 + t3, _
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)))
}

// ---------------------------------------------------------------------------------------------------- attention

/// Sums that are taken together, of `K` rows of f16 and `H` vectors: half of the lanes at a time, two registers of each,
/// leave room for what is loaded.
const SUMS: usize = 4;
/// Keys that all queries are multiplied with before the next: a cache of the first level has them.
const KEYS: usize = 64;

#[trace_timing(avx2_attn_scores)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attn_scores(scores: &mut [f32], q: &[f32], k: &[f16], head_dim: usize, scale: f32) {
    let (n_query, n_pos) = (q.len() / head_dim, k.len() / head_dim);
    let n_pad = scores.len() / n_query;
    for first in (0..n_pos).step_by(KEYS) {
        let keys = (first, &k[first * head_dim..n_pos.min(first + KEYS) * head_dim]);
        let (mut scores, mut q) = (&mut *scores, q);
        while !q.is_empty() {
            let n = if q.len() >= 4 * head_dim { 4 } else { (q.len() / head_dim).min(2) };
            let (now, later) = scores.split_at_mut(n * n_pad);
            let (queries, rest) = q.split_at(n * head_dim);
            match n {
                4 => scores_of::<1, 4>(now, queries, keys, scale),
                2 => scores_of::<2, 2>(now, queries, keys, scale),
                _ => {
                    for (score, key) in now[first..].iter_mut().zip(keys.1.chunks_exact(head_dim)) {
                        *score = dot(key, queries) * scale;
                    }
                }
            }
            (scores, q) = (later, rest);
        }
    }
    for scores in scores.chunks_exact_mut(n_pad) {
        scores[n_pos..].fill(f32::NEG_INFINITY);
    }
}

/// Scores of `H` queries for some keys, `K` of them at a time.
///
/// - `keys`: the position of the first, and all
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores_of<const K: usize, const H: usize>(
    scores: &mut [f32],
    q: &[f32],
    (first, k): (usize, &[f16]),
    scale: f32,
) {
    let (n_pad, head_dim) = (scores.len() / H, q.len() / H);
    let mut queries = [q; H];
    for (query, q) in queries.iter_mut().zip(q.chunks_exact(head_dim)) {
        *query = q;
    }
    for (pos, some) in (first..).step_by(K).zip(k.chunks(K * head_dim)) {
        // Where fewer are left, the first stands for those that are not there.
        let mut keys = [&some[..head_dim]; K];
        for (key, k) in keys.iter_mut().zip(some.chunks_exact(head_dim)) {
            *key = k;
        }
        for (h, dots) in dots(keys, queries).as_chunks::<K>().0.iter().enumerate() {
            for (score, dot) in scores[h * n_pad + pos..][..some.len() / head_dim].iter_mut().zip(dots) {
                *score = dot * scale;
            }
        }
    }
}

/// The 32-lane dot products of `K` rows with each of `H` vectors, those of a vector together.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const K: usize, const H: usize>(rows: [&[f16]; K], x: [&[f32]; H]) -> [f32; SUMS] {
    let (mut w_runs, mut x_runs) = ([&[][..]; K], [&[][..]; H]);
    for (runs, row) in w_runs.iter_mut().zip(rows) {
        *runs = row.as_chunks().0;
        for run in *runs {
            prefetch(run.as_ptr().cast::<u8>().wrapping_add(AHEAD));
        }
    }
    for (runs, x) in x_runs.iter_mut().zip(x) {
        *runs = x.as_chunks().0;
    }
    let mut halves = [[_mm256_setzero_ps(); SUMS]; 2];
    for (half, joined) in halves.iter_mut().enumerate() {
        let mut acc = [[_mm256_setzero_ps(); 2]; SUMS];
        add_products(&mut acc, w_runs, x_runs, half);
        *joined = join(acc);
    }
    let mut sums = reduce_four(halves);
    let whole = 32 * w_runs[0].len();
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = scalar::dot16_rest(*sum, &rows[i % K][whole..], &x[i / K][whole..]);
    }
    sums
}

#[trace_timing(avx2_attn_mix)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attn_mix(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    let (n_tiles, head_dim) = (v.n_pad() / 32, v.head_dim());
    let (n_head, (p, _)) = (out.len() / head_dim, p.as_chunks());
    // Dimensions outside, heads inside: values are read once.
    for d in (0..head_dim).step_by(2) {
        let dims = [d, (d + 1).min(head_dim - 1)];
        let rest = v.rest(dims[0]).zip(v.rest(dims[1])).map(|((_, a), (_, b))| [a, b]);
        for head in (0..n_head).step_by(2) {
            let heads = [head, (head + 1).min(n_head - 1)];
            let p = [&p[heads[0] * n_tiles..][..n_tiles], &p[heads[1] * n_tiles..][..n_tiles]];
            let sums = if heads[0] == heads[1] {
                let [a, b] = dims.map(|d| mix_one(v, d, p[0]));
                [a, b, a, b]
            } else {
                mix(v, dims, rest.as_ref(), p)
            };
            for (i, head) in heads.into_iter().enumerate() {
                for (j, d) in dims.into_iter().enumerate() {
                    out[head * head_dim + d] = sums[2 * i + j];
                }
            }
        }
    }
}

/// The sum of the values of a dimension, weighed by probabilities.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mix_one(v: Values<'_>, d: usize, p: &[[f32; 32]]) -> f32 {
    let mut acc = [_mm256_setzero_ps(); 4];
    for (first, [tiles]) in v.rows([d]) {
        for (tile, p) in tiles.iter().zip(&p[first / 32..]) {
            add_run(&mut acc, tile, p);
        }
    }
    if let Some((first, tile)) = v.rest(d) {
        add_run(&mut acc, &tile, &p[first / 32]);
    }
    reduce(acc)
}

/// Sums of the values of two dimensions, weighed by the first probabilities and by the second.
///
/// - `rest`: the last tile of each, if it is not whole
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mix(v: Values<'_>, dims: [usize; 2], rest: Option<&[[f16; 32]; 2]>, p: [&[[f32; 32]]; 2]) -> [f32; SUMS] {
    let mut halves = [[_mm256_setzero_ps(); SUMS]; 2];
    for (half, joined) in halves.iter_mut().enumerate() {
        let mut acc = [[_mm256_setzero_ps(); 2]; SUMS];
        for (first, tiles) in v.rows(dims) {
            add_products(&mut acc, tiles, [&p[0][first / 32..], &p[1][first / 32..]], half);
        }
        if let Some([a, b]) = rest {
            let last = p[0].len() - 1;
            add_products(&mut acc, [&[*a], &[*b]], [&p[0][last..], &p[1][last..]], half);
        }
        *joined = join(acc);
    }
    reduce_four(halves)
}

/// Adds to half of the lanes of each sum, registers `half` and `half + 2`, the products of the runs of `K` rows with
/// those of each of `H` vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_products<const K: usize, const H: usize>(
    acc: &mut [[__m256; 2]; SUMS],
    rows: [&[[f16; 32]]; K],
    x: [&[[f32; 32]]; H],
    half: usize,
) {
    const { assert!(K * H == SUMS) };
    let n = rows[0].len();
    let (mut rows, mut x) = (rows, x);
    for rows in &mut rows {
        *rows = &rows[..n];
    }
    for x in &mut x {
        *x = &x[..n];
    }
    for i in 0..n {
        for lane in 0..2 {
            let at = 8 * (half + 2 * lane);
            let mut wide = [_mm256_setzero_ps(); K];
            for k in 0..K {
                wide[k] = load_f16(&rows[k][i][at..]);
            }
            for h in 0..H {
                let x = load_f32(&x[h][i][at..]);
                for k in 0..K {
                    acc[h * K + k][lane] = _mm256_fmadd_ps(wide[k], x, acc[h * K + k][lane]);
                }
            }
        }
    }
}

/// `v0 + v2` or `v1 + v3` of each sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn join(acc: [[__m256; 2]; SUMS]) -> [__m256; SUMS] {
    let mut joined = [_mm256_setzero_ps(); SUMS];
    for (joined, acc) in joined.iter_mut().zip(acc) {
        *joined = _mm256_add_ps(acc[0], acc[1]);
    }
    joined
}

/// As [`reduce`], of four sums whose registers are [`join`]ed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn reduce_four(halves: [[__m256; SUMS]; 2]) -> [f32; SUMS] {
    let mut t = [_mm_setzero_ps(); SUMS];
    for (i, t) in t.iter_mut().enumerate() {
        let u = _mm256_add_ps(halves[0][i], halves[1][i]);
        *t = _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps::<1>(u));
    }
    bytemuck::cast(_mm_hadd_ps(_mm_hadd_ps(t[0], t[1]), _mm_hadd_ps(t[2], t[3])))
}
