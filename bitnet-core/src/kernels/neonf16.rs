//! NEON products of f16 values: the output head, and attention.
//!
//! The 32 lanes of a sum are eight registers; `v0..v3` of the canonical order are pairs of them.
#![expect(
    unsafe_code,
    reason = "loads through pointers taken from slices of checked length, and instructions without a stable intrinsic"
)]

use std::arch::{aarch64::*, asm};

use half::f16;

use super::{Values, scalar};
use crate::trace::trace_timing;

#[trace_timing(neon_gemv_f16)]
#[target_feature(enable = "neon")]
pub(super) fn gemv_f16(y: &mut [f32], w: &[f16], x: &[f32]) {
    for (y, row) in y.iter_mut().zip(w.chunks_exact(x.len())) {
        [*y] = dots::<1>(row, x);
    }
}

/// The 32-lane dot products of `R` consecutive f16 rows with one vector.
#[inline]
#[target_feature(enable = "neon")]
fn dots<const R: usize>(rows: &[f16], x: &[f32]) -> [f32; R] {
    let cols = x.len();
    let mut acc = [[vdupq_n_f32(0.0); 8]; R];
    let (x_blocks, x_rest) = x.as_chunks::<32>();
    for (i, x) in x_blocks.iter().enumerate() {
        for v in 0..4 {
            let x = [load_f32(&x[8 * v..]), load_f32(&x[8 * v + 4..])];
            for r in 0..R {
                let w = load_f16(&rows[r * cols + 32 * i + 8 * v..]);
                acc[r][2 * v] = vfmaq_f32(acc[r][2 * v], w[0], x[0]);
                acc[r][2 * v + 1] = vfmaq_f32(acc[r][2 * v + 1], w[1], x[1]);
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = scalar::dot16_rest(reduce(acc[r]), &rows[r * cols..][..cols][32 * x_blocks.len()..], x_rest);
    }
    out
}

/// 4 f32 values.
#[inline]
#[target_feature(enable = "neon")]
fn load_f32(x: &[f32]) -> float32x4_t {
    let x: &[f32; 4] = x.first_chunk().expect("4 values are left");
    // SAFETY: 4 readable values by type; this load accepts any alignment.
    unsafe { vld1q_f32(x.as_ptr()) }
}

/// 8 f16 values, widened.
#[inline]
#[target_feature(enable = "neon")]
fn load_f16(v: &[f16]) -> [float32x4_t; 2] {
    let v: &[f16; 8] = v.first_chunk().expect("8 values are left");
    // SAFETY: 16 readable bytes by type; this load accepts any alignment.
    let v = unsafe { vld1q_u16(v.as_ptr().cast()) };
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: reads and writes the named registers only. It may set a floating point status flag.
    unsafe { asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) low, in(vreg) v, options(pure, nomem, nostack)) };
    // SAFETY: as above.
    unsafe { asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) high, in(vreg) v, options(pure, nomem, nostack)) };
    [low, high]
}

/// Joins 32 lanes in the canonical order: `(v0 + v2) + (v1 + v3)`, then halves, and neighbours.
#[inline]
#[target_feature(enable = "neon")]
fn reduce(v: [float32x4_t; 8]) -> f32 {
    let low = vaddq_f32(vaddq_f32(v[0], v[4]), vaddq_f32(v[2], v[6]));
    let high = vaddq_f32(vaddq_f32(v[1], v[5]), vaddq_f32(v[3], v[7]));
    let t = vaddq_f32(low, high);
    vpadds_f32(vget_low_f32(vpaddq_f32(t, t))) // t0 + t1, t2 + t3, and their sum
}

// ---------------------------------------------------------------------------------------------------- attention

#[trace_timing(neon_attn_scores)]
#[target_feature(enable = "neon")]
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

#[trace_timing(neon_attn_mix)]
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn mix<const H: usize>(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    let (n_pad, head_dim) = (v.n_pad(), v.head_dim());
    for d in 0..head_dim {
        let mut acc = [[vdupq_n_f32(0.0); 8]; H];
        for (first, [tiles]) in v.rows([d]) {
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
#[target_feature(enable = "neon")]
fn mix_tile<const H: usize>(acc: &mut [[float32x4_t; 8]; H], tile: &[f16; 32], p: &[f32], n_pad: usize) {
    for lane in 0..4 {
        let v = load_f16(&tile[8 * lane..]);
        for h in 0..H {
            let p = &p[h * n_pad + 8 * lane..][..8];
            acc[h][2 * lane] = vfmaq_f32(acc[h][2 * lane], v[0], load_f32(p));
            acc[h][2 * lane + 1] = vfmaq_f32(acc[h][2 * lane + 1], v[1], load_f32(&p[4..]));
        }
    }
}
