//! AVX-512 products of f16 values, 32 at a time: the output head and attention. The table is in `avx512.rs`.
//!
//! The 32 lanes of a sum are in two registers, so `v0..v3` of the canonical order are the four halves.
#![expect(unsafe_code, reason = "loads through pointers taken from slices of checked length")]

use std::arch::x86_64::*;

use half::f16;

use super::avx512::{AHEAD, prefetch};
use super::{Values, scalar, values::ROW};
use crate::trace::trace_timing;

// --------------------------------------------------------------------------------------------- f16 dot products

#[trace_timing(avx512_gemv_f16)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn gemv_f16(y: &mut [f32], w: &[f16], x: &[f32]) {
    // One row at a time: the reads are one stream, and the next row's sums overlap this one's.
    for (y, row) in y.iter_mut().zip(w.chunks_exact(x.len())) {
        let [[acc]] = products([row], [x]);
        *y = dot16_rest(reduce(acc), row, x);
    }
}

/// The products of `K` f16 rows with each of `H` vectors of the same length, whole runs of 32 alone, in 32 lanes.
///
/// Loops over rows and vectors, since a call of `map` on arrays of slices is not inlined here, and takes as long as the
/// products.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn products<const K: usize, const H: usize>(rows: [&[f16]; K], x: [&[f32]; H]) -> [[[__m512; 2]; K]; H] {
    let (mut row_runs, mut x_runs) = ([&[][..]; K], [&[][..]; H]);
    for (runs, row) in row_runs.iter_mut().zip(rows) {
        *runs = row.as_chunks::<32>().0;
    }
    for (runs, x) in x_runs.iter_mut().zip(x) {
        *runs = x.as_chunks::<32>().0;
    }
    let mut acc = [[[_mm512_setzero_ps(); 2]; K]; H];
    for i in 0..row_runs[0].len() {
        let mut rows = [[_mm512_setzero_ps(); 2]; K];
        for (row, runs) in rows.iter_mut().zip(row_runs) {
            prefetch(runs[i].as_ptr().cast::<u8>().wrapping_add(AHEAD));
            *row = load_f16(&runs[i]);
        }
        for h in 0..H {
            let x = load_f32(&x_runs[h][i]);
            for r in 0..K {
                acc[h][r][0] = _mm512_fmadd_ps(rows[r][0], x[0], acc[h][r][0]);
                acc[h][r][1] = _mm512_fmadd_ps(rows[r][1], x[1], acc[h][r][1]);
            }
        }
    }
    acc
}

/// 32 f32 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn load_f32(x: &[f32; 32]) -> [__m512; 2] {
    // SAFETY: 16 readable values by type; this load accepts any alignment.
    let low = unsafe { _mm512_loadu_ps(x.as_ptr()) };
    // SAFETY: the other 16 of the 32.
    let high = unsafe { _mm512_loadu_ps(x[16..].as_ptr()) };
    [low, high]
}

/// 32 f16 values, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn load_f16(v: &[f16]) -> [__m512; 2] {
    let v: &[f16; 32] = v.first_chunk().expect("32 values are left");
    // SAFETY: 64 readable bytes by type; this load accepts any alignment.
    let v = unsafe { _mm512_loadu_si512(v.as_ptr().cast()) };
    [_mm512_cvtph_ps(_mm512_castsi512_si256(v)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(v))]
}

/// Joins 32 lanes in the canonical order: `[v0 | v1]` + `[v2 | v3]`, then halves, quarters, and neighbours.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn reduce(acc: [__m512; 2]) -> f32 {
    let v = _mm512_add_ps(acc[0], acc[1]);
    let u = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    let t = _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps::<1>(u));
    let pairs = _mm_add_ps(t, _mm_movehdup_ps(t)); // t0 + t1, _, t2 + t3, _
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)))
}

/// As [`reduce`], for eight sums at once: each addition joins halves of two or four of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn reduce_eight(acc: [[__m512; 2]; 8]) -> [f32; 8] {
    let v = acc.map(|[low, high]| _mm512_add_ps(low, high));
    // Four lanes of a sum stand together; pairs of fours are gathered from two registers, then added.
    let u = [0, 2, 4, 6].map(|i| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(v[i], v[i + 1]),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(v[i], v[i + 1]),
        )
    });
    let t = [0, 2].map(|i| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(u[i], u[i + 1]),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(u[i], u[i + 1]),
        )
    });
    // The four lanes of sum i now stand at place i of `t[0]`, those of sum i + 4 there of `t[1]`.
    let pairs = _mm512_add_ps(
        _mm512_shuffle_ps::<0b10_00_10_00>(t[0], t[1]),
        _mm512_shuffle_ps::<0b11_01_11_01>(t[0], t[1]),
    );
    let sums = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    bytemuck::cast(_mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)))
}

/// As [`scalar::dot16_rest`], of whole vectors: their last values are added, past whole runs of 32.
#[inline]
fn dot16_rest(sum: f32, a: &[f16], b: &[f32]) -> f32 {
    let whole = a.len() / 32 * 32;
    scalar::dot16_rest(sum, &a[whole..], &b[whole..])
}

// ---------------------------------------------------------------------------------------------------- attention

#[trace_timing(avx512_attn_scores)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn attn_scores(scores: &mut [f32], q: &[f32], k: &[f16], head_dim: usize, scale: f32) {
    let n_pad = scores.len() / (q.len() / head_dim);
    let (mut scores, mut q) = (scores, q);
    while !q.is_empty() {
        let n = together(q.len() / head_dim);
        let (now, later) = scores.split_at_mut(n * n_pad);
        let (queries, rest) = q.split_at(n * head_dim);
        match n {
            4 => scores_of::<4, 2>(now, queries, k, head_dim, scale),
            2 => scores_of::<2, 4>(now, queries, k, head_dim, scale),
            _ => scores_of::<1, 8>(now, queries, k, head_dim, scale),
        }
        (scores, q) = (later, rest);
    }
}

/// How many of `n` heads go together.
fn together(n: usize) -> usize {
    if n >= 4 { 4 } else { n.min(2) }
}

/// `H` queries that read the same keys: `K` keys at a time, eight sums in all, are loaded and widened once for all of
/// them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn scores_of<const H: usize, const K: usize>(
    scores: &mut [f32],
    q: &[f32],
    k: &[f16],
    head_dim: usize,
    scale: f32,
) {
    const { assert!(H * K == 8) };
    let (n_pad, n_pos) = (scores.len() / H, k.len() / head_dim);
    let mut queries = [q; H];
    for (query, q) in queries.iter_mut().zip(q.chunks_exact(head_dim)) {
        *query = q;
    }
    for (p, some) in (0..n_pos).step_by(K).zip(k.chunks_exact(K * head_dim)) {
        let mut keys = [some; K];
        for (key, k) in keys.iter_mut().zip(some.chunks_exact(head_dim)) {
            *key = k;
        }
        let acc = products::<K, H>(keys, queries);
        let mut dots = reduce_eight(acc.as_flattened().try_into().expect("eight sums"));
        if !head_dim.is_multiple_of(32) {
            for (i, dot) in dots.iter_mut().enumerate() {
                *dot = dot16_rest(*dot, keys[i % K], queries[i / K]);
            }
        }
        for (h, dots) in dots.as_chunks::<K>().0.iter().enumerate() {
            scores[h * n_pad + p..][..K].copy_from_slice(&dots.map(|dot| dot * scale));
        }
    }
    for p in n_pos / K * K..n_pos {
        let key = &k[p * head_dim..][..head_dim];
        for (h, [acc]) in products::<1, H>([key], queries).into_iter().enumerate() {
            scores[h * n_pad + p] = dot16_rest(reduce(acc), key, queries[h]) * scale;
        }
    }
    for scores in scores.chunks_exact_mut(n_pad) {
        scores[n_pos..].fill(f32::NEG_INFINITY);
    }
}

#[trace_timing(avx512_attn_mix)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn attn_mix(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    let (mut out, mut p) = (out, p);
    while !out.is_empty() {
        let n = together(out.len() / v.head_dim());
        let (now, later) = out.split_at_mut(n * v.head_dim());
        let (weights, rest) = p.split_at(n * v.n_pad());
        match n {
            4 => mix::<4>(now, v, weights),
            2 => mix::<2>(now, v, weights),
            _ => mix::<1>(now, v, weights),
        }
        (out, p) = (later, rest);
    }
}

/// How many dimensions ahead values are asked for.
const DIMENSIONS_AHEAD: usize = 16;

/// `H` heads that read the same values, two dimensions at a time: each tile is loaded and widened once for all heads,
/// each probability loaded once for both dimensions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn mix<const H: usize>(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    let (n_pad, head_dim) = (v.n_pad(), v.head_dim());
    let mut tiles_of_p = [&[][..]; H];
    for (tiles, p) in tiles_of_p.iter_mut().zip(p.chunks_exact(n_pad)) {
        *tiles = p.as_chunks::<32>().0;
    }
    for d in (0..head_dim).step_by(2) {
        let second = (d + 1).min(head_dim - 1);
        let mut acc = [[_mm512_setzero_ps(); 2]; 8];
        for (first, [a, b]) in v.rows([d, second]) {
            for (i, (a, b)) in (first / 32..).zip(a.iter().zip(b)) {
                for tile in [a, b] {
                    prefetch(tile.as_ptr().cast::<u8>().wrapping_add(2 * ROW * DIMENSIONS_AHEAD));
                }
                mix_tiles(&mut acc, [a, b], tiles_of_p, i);
            }
        }
        if let (Some((first, a)), Some((_, b))) = (v.rest(d), v.rest(second)) {
            mix_tiles(&mut acc, [&a, &b], tiles_of_p, first / 32);
        }
        let sums = reduce_eight(acc);
        for h in 0..H {
            (out[h * head_dim + d], out[h * head_dim + second]) = (sums[h], sums[4 + h]);
        }
    }
}

/// Adds the products of a tile of one dimension to the first four sums, and of another to the last four.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn mix_tiles<const H: usize>(
    acc: &mut [[__m512; 2]; 8],
    tiles: [&[f16; 32]; 2],
    p: [&[[f32; 32]]; H],
    i: usize,
) {
    let v = [load_f16(tiles[0]), load_f16(tiles[1])];
    for h in 0..H {
        let p = load_f32(&p[h][i]);
        for (k, v) in v.into_iter().enumerate() {
            acc[4 * k + h][0] = _mm512_fmadd_ps(v[0], p[0], acc[4 * k + h][0]);
            acc[4 * k + h][1] = _mm512_fmadd_ps(v[1], p[1], acc[4 * k + h][1]);
        }
    }
}
