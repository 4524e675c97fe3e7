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
        [*y] = dots::<1>(row, x);
    }
}

/// The 32-lane dot products of `R` consecutive f16 rows with one vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const R: usize>(rows: &[f16], x: &[f32]) -> [f32; R] {
    let cols = x.len();
    let mut acc = [[_mm256_setzero_ps(); 4]; R];
    let (x_blocks, x_rest) = x.as_chunks::<32>();
    for (i, x) in x_blocks.iter().enumerate() {
        for r in 0..R {
            prefetch(rows[r * cols + 32 * i..].as_ptr().cast::<u8>().wrapping_add(AHEAD));
        }
        for v in 0..4 {
            let x = load_f32(&x[8 * v..]);
            for r in 0..R {
                acc[r][v] = _mm256_fmadd_ps(load_f16(&rows[r * cols + 32 * i + 8 * v..]), x, acc[r][v]);
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = scalar::dot16_rest(reduce(acc[r]), &rows[r * cols..][..cols][32 * x_blocks.len()..], x_rest);
    }
    out
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

#[trace_timing(avx2_attn_scores)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attn_scores(scores: &mut [f32], q: &[f32], k: &[f16], head_dim: usize, scale: f32) {
    let n_pos = k.len() / head_dim;
    let n_pad = scores.len() / (q.len() / head_dim);
    for (row, q) in scores.chunks_exact_mut(n_pad).zip(q.chunks_exact(head_dim)) {
        let (seen, padding) = row.split_at_mut(n_pos);
        let (pairs, rest) = seen.as_chunks_mut::<2>();
        for (scores, k) in pairs.iter_mut().zip(k.chunks_exact(2 * head_dim)) {
            *scores = dots::<2>(k, q).map(|s| s * scale);
        }
        if let [score] = rest {
            let [s] = dots::<1>(&k[(n_pos - 1) * head_dim..], q);
            *score = s * scale;
        }
        padding.fill(f32::NEG_INFINITY);
    }
}

#[trace_timing(avx2_attn_mix)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attn_mix(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    let (n_pad, head_dim) = (v.n_pad(), v.head_dim());
    let (mut out, mut p) = (out, p);
    while out.len() >= 2 * head_dim {
        let (now, later) = out.split_at_mut(2 * head_dim);
        mix::<2>(now, v, &p[..2 * n_pad]);
        (out, p) = (later, &p[2 * n_pad..]);
    }
    for (out, p) in out.chunks_exact_mut(head_dim).zip(p.chunks_exact(n_pad)) {
        mix::<1>(out, v, p);
    }
}

/// `H` heads that read the same values: each tile column is loaded and widened once for all of them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mix<const H: usize>(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    let (n_pad, head_dim) = (v.n_pad(), v.head_dim());
    for d in 0..head_dim {
        let mut acc = [[_mm256_setzero_ps(); 4]; H];
        for (first, tiles) in v.rows(d) {
            for (i, tile) in tiles.iter().enumerate() {
                mix_tile(&mut acc, tile, &p[first + 32 * i..], n_pad);
            }
        }
        if let Some((first, tile)) = v.rest(d) {
            mix_tile(&mut acc, &tile, &p[first..], n_pad);
        }
        for h in 0..H {
            out[h * head_dim + d] = reduce(acc[h]);
        }
    }
}

/// Adds the products of one tile with the probabilities of its positions, `n_pad` apart for each head.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mix_tile<const H: usize>(acc: &mut [[__m256; 4]; H], tile: &[f16; 32], p: &[f32], n_pad: usize) {
    for lane in 0..4 {
        let v = load_f16(&tile[8 * lane..]);
        for h in 0..H {
            let p = load_f32(&p[h * n_pad + 8 * lane..]);
            acc[h][lane] = _mm256_fmadd_ps(v, p, acc[h][lane]);
        }
    }
}
