//! The definition of every kernel, in plain Rust. The other files of this folder must equal it bit for bit.

use half::f16;

use super::{ActTiles, Kernels, Tiling, Values, elementwise};
use crate::ops::dot32::reduce_lanes;
use crate::ops::screen::{self, ShadowVector};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{self, Columns};
use crate::quant::i2s::{self, Ternary};
use crate::quant::tri5::{self, Tri5};

elementwise!();

/// The scalar kernels: they run anywhere.
pub(super) const KERNELS: Kernels = Kernels {
    isa: super::Isa::Scalar,
    name: "scalar",
    ternary: "scalar",
    tri5: "tri5-scalar",
    tiling: Tiling::Even(1),
    pairs: false,
    pair_up,
    rms_norm,
    quantize,
    softmax,
    round_to_f16,
    relu2_mul,
    silu_mul,
    add,
    rotate,
    shadow_row,
    bounds,
    dot_u4,
    dot_u2,
    gemv_f32,
    gemv_i2s,
    gemv_i2s_picked,
    gemm_i2s,
    preparation: None,
    pack_columns,
    sum_columns,
    join_sums,
    pack_tri5,
    unpack_tri5: tri5::unpack_row,
    gemv_tri5,
    gemv_tri5_picked,
    gemm_tri5: None,
    gemv_f16,
    attn_scores,
    attn_mix,
    ask,
};

/// `y_r = f32(f32(f32(dot) / s) * scale)`: a division, then a product, in that order.
pub(super) fn rescale(dot: i32, s: f32, scale: f32) -> f32 {
    dot as f32 / s * scale
}

/// `sum(code * q)` of one packed row with codes 0 to 3; of ternary ones the caller subtracts `sum(q)`.
pub(super) fn dot_codes(row: &[u8], q: &[i8]) -> i32 {
    let mut sum = 0;
    for (block, q) in row.chunks_exact(i2s::BLOCK_BYTES).zip(q.chunks_exact(i2s::BLOCK)) {
        for k in 0..i2s::BLOCK {
            sum += i32::from(i2s::code(block, k)) * i32::from(q[k]);
        }
    }
    sum
}

fn gemv_i2s(y: &mut [f32], w: Ternary<'_>, q: &[i8], a: ActScale, scale: f32) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = rescale(dot_codes(w.row(r), q) - a.sum, a.s, scale);
    }
}

fn gemv_i2s_picked(y: &mut [f32], w: Ternary<'_>, picked: &[u32], q: &[i8], a: ActScale, scale: f32) {
    for &r in picked {
        y[r as usize] = rescale(dot_codes(w.row(r as usize), q) - a.sum, a.s, scale);
    }
}

pub(super) fn gemv_tri5(y: &mut [f32], w: Tri5<'_>, q: &[i8], a: ActScale, scale: f32) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = rescale(tri5::dot_row(w.row(r), q) - a.sum, a.s, scale);
    }
}

pub(super) fn gemv_tri5_picked(
    y: &mut [f32],
    w: Tri5<'_>,
    picked: &[u32],
    q: &[i8],
    a: ActScale,
    scale: f32,
) {
    for &r in picked {
        y[r as usize] = rescale(tri5::dot_row(w.row(r as usize), q) - a.sum, a.s, scale);
    }
}

fn sum_columns(sums: &mut [i32], w: Columns<'_>, picked: &[u32], q: &[i8]) {
    for &c in picked {
        let (column, q) = (w.column(c as usize), i32::from(q[c as usize]));
        for (line, sums) in column.iter().zip(sums.as_chunks_mut::<{ columns::LINE_ROWS }>().0) {
            for (r, sum) in sums.iter_mut().enumerate() {
                let (byte, shift) = columns::place(r);
                *sum += i32::from(line[byte] >> shift & 3) * q;
            }
        }
    }
}

fn gemm_i2s(y: &mut [&mut [f32]], w: Ternary<'_>, x: &ActTiles<'_>, scale: f32, panel: &mut Lines<u8>) {
    panel.resize(w.cols());
    for r in 0..w.rows() {
        i2s::unpack_codes(w.row(r), panel);
        for t in 0..x.n() {
            let (q, a) = x.single(t);
            let dot: i32 = panel.iter().zip(q).map(|(&c, &q)| i32::from(c) * i32::from(q)).sum();
            y[t][r] = rescale(dot - a.sum, a.s, scale);
        }
    }
}

/// The 32-lane dot product of f16 values: `acc[i mod 32] = f32(acc + a_i * b_i)`, then [`reduce_lanes`]; what is
/// left past the last whole 32 is added in f64 and rounded once.
///
/// The product of two f16 values is exact in f32, so it does not matter whether an instruction set fuses it.
pub(super) fn dot16(a: &[f16], b: &[f32]) -> f32 {
    let mut acc = [0.0_f32; 32];
    let (a_blocks, a_rest) = a.as_chunks::<32>();
    let (b_blocks, b_rest) = b.as_chunks::<32>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..32 {
            acc[lane] += a[lane].to_f32() * b[lane];
        }
    }
    dot16_rest(reduce_lanes(&acc), a_rest, b_rest)
}

/// Adds the products past the last whole 32 to `sum`, in f64 and index order.
pub(super) fn dot16_rest(sum: f32, a: &[f16], b: &[f32]) -> f32 {
    if a.is_empty() {
        return sum;
    }
    let mut total = f64::from(sum);
    for (a, b) in a.iter().zip(b) {
        total += f64::from(a.to_f32() * b);
    }
    total as f32
}

fn dot_u4(y: &mut [f64], w: &[u8], x: &ShadowVector) {
    for (y, row) in y.iter_mut().zip(w.chunks_exact(x.values.len() / 2)) {
        let runs = row.chunks_exact(screen::RUN / 2).zip(x.values.chunks_exact(screen::RUN));
        let dot: i64 = runs
            .map(|(w, x)| {
                let (first, second) = x.split_at(screen::RUN / 2);
                let low = w.iter().zip(first).map(|(&w, &x)| i64::from(w & 15) * i64::from(x));
                let high = w.iter().zip(second).map(|(&w, &x)| i64::from(w >> 4) * i64::from(x));
                low.chain(high).sum::<i64>()
            })
            .sum();
        *y = dot as f64;
    }
}

fn dot_u2(y: &mut [f64], w: &[u8], picked: &[u32], x: &[i8]) {
    for (y, &r) in y.iter_mut().zip(picked) {
        *y = f64::from(dot_codes(&w[r as usize * (x.len() / 4)..][..x.len() / 4], x));
    }
}

fn gemv_f16(y: &mut [f32], w: &[f16], x: &[f32]) {
    for (y, row) in y.iter_mut().zip(w.chunks_exact(x.len())) {
        *y = dot16(row, x);
    }
}

fn attn_scores(scores: &mut [f32], q: &[f32], k: &[f16], head_dim: usize, scale: f32) {
    let n_pos = k.len() / head_dim;
    let n_query = q.len() / head_dim;
    for (row, q) in scores.chunks_exact_mut(scores.len() / n_query).zip(q.chunks_exact(head_dim)) {
        let (seen, padding) = row.split_at_mut(n_pos);
        for (score, k) in seen.iter_mut().zip(k.chunks_exact(head_dim)) {
            *score = dot16(k, q) * scale;
        }
        padding.fill(f32::NEG_INFINITY);
    }
}

fn attn_mix(out: &mut [f32], v: Values<'_>, p: &[f32]) {
    for (out, p) in out.chunks_exact_mut(v.head_dim()).zip(p.chunks_exact(v.n_pad())) {
        for (d, out) in out.iter_mut().enumerate() {
            let mut acc = [0.0_f32; 32];
            let rest = v.rest(d).map(|(_, tile)| tile);
            let tiles = v.rows([d]).flat_map(|(_, [tiles])| tiles).chain(&rest);
            for (tile, p) in tiles.zip(p.as_chunks::<32>().0) {
                for lane in 0..32 {
                    acc[lane] += tile[lane].to_f32() * p[lane];
                }
            }
            *out = reduce_lanes(&acc);
        }
    }
}

pub(super) fn ask(_: &[u16], _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_a_ternary_row() {
        // x = [.5, -1, .25, 2], w = [1, -1, 0, 1] * 0.75: s = 63.5, q = [32, -64, 16, 127], y = 223 / 63.5 * .75
        let mut w = [0_i8; 128];
        (w[0], w[1], w[3]) = (1, -1, 1);
        let mut x = [0.0; 128];
        (x[0], x[1], x[2], x[3]) = (0.5, -1.0, 0.25, 2.0);
        let mut q = [0; 128];
        let a = quantize(&mut q, &x);
        let packed = i2s::pack(&w);
        let mut y = [0.0];
        gemv_i2s(&mut y, Ternary::new(&packed, 1, 128), &q, a, 0.75);
        assert_eq!(y, [2.633_858_2]);
    }

    #[test]
    fn lanes_meet_in_the_stated_order() {
        // Chosen so that the nearest other orders round differently.
        let mut acc = [0.0_f32; 32];
        (acc[0], acc[16], acc[8], acc[24]) = (1e8, 3.0, -1e8, 3.0);
        assert_eq!(reduce_lanes(&acc), (1e8_f32 + 3.0) + (-1e8_f32 + 3.0));
        acc[4] = 0.25;
        assert_eq!(reduce_lanes(&acc), ((1e8_f32 + 3.0) + (-1e8_f32 + 3.0)) + 0.25);
    }

    #[test]
    fn what_is_past_the_last_whole_32_is_added_in_f64() {
        let a: Vec<f16> = (0..35_u8).map(|i| f16::from_f32(f32::from(i) + 0.5)).collect();
        let b: Vec<f32> = (0..35_u8).map(|i| 1.0 - f32::from(i) * 0.125).collect();
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| a.to_f64() * f64::from(*b)).sum();
        assert_eq!(dot16(&a, &b), exact as f32); // small integers over 16: every order is exact
    }
}
