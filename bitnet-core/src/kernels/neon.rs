//! NEON: 16 packed bytes at a time. Two tables that differ in the products of integers; those of f16 values are in
//! `neonf16.rs`.
//!
//! Codes 0..=2 are multiplied as signed bytes, and `sum(q)` is subtracted once at the end. [`dot`] has `sdot`, which
//! adds four products to each i32 lane. [`plain`] adds products in i16 lanes and moves them to i32 lanes before they
//! can overflow.
#![expect(
    unsafe_code,
    reason = "loads and stores through pointers taken from slices of checked length, and instructions without a \
              stable intrinsic"
)]

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use super::neonf16::{attn_mix, attn_scores, gemv_f16};
use super::{ActTiles, Kernels, Tiling, elementwise, scalar, tiles::Tile};
use crate::ops::screen::{self, ShadowVector};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{self, Columns};
use crate::quant::i2s::{self, Ternary};
use crate::quant::tri5;
use crate::trace::trace_timing;

elementwise!("neon");

// ------------------------------------------------------------------------------------------ products of integers

/// Rows that share one load of the activations.
const GEMV_ROWS: usize = 4;
/// Columns of a group: what passes between loading the sums of a line and storing them.
const GROUP: usize = 16;
/// Rows of a panel: four registers of 4 sums.
const PANEL: usize = 16;

/// One table, and all of its ternary products but the loops that multiply.
macro_rules! ternary_products {
    (
        $name:literal, $feature:literal, tile: $tile:literal [$($n:literal)*],
        $gemv:ident, $gemm:ident, $dot_u4:ident
    ) => {
        pub(in crate::kernels) static KERNELS: Kernels = Kernels {
            isa: crate::kernels::Isa::Neon,
            name: $name,
            ternary: $name,
            tri5: "tri5-neon",
            tiling: Tiling::Even($tile),
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
            gemv_f32,
            shadow_row,
            bounds,
            dot_u4,
            dot_u2,
            gemv_i2s,
            gemv_i2s_picked,
            gemm_i2s,
            preparation: None,
            pack_columns,
            sum_columns,
            join_sums,
            pack_tri5,
            unpack_tri5: tri5::unpack_row,
            gemv_tri5: scalar::gemv_tri5,
            gemv_tri5_picked: scalar::gemv_tri5_picked,
            gemm_tri5: None,
            gemv_f16,
            attn_scores,
            attn_mix,
            ask: scalar::ask,
        };

        #[trace_timing($gemv)]
        #[target_feature(enable = $feature)]
        fn gemv_i2s(y: &mut [f32], w: Ternary<'_>, q: &[i8], a: ActScale, scale: f32) {
            let row_bytes = w.row_bytes();
            let (groups, rest) = y.as_chunks_mut::<GEMV_ROWS>();
            let rest_first = groups.len() * GEMV_ROWS;
            for (y, rows) in groups.iter_mut().zip(w.bytes().chunks_exact(GEMV_ROWS * row_bytes)) {
                let dots = dot_rows::<GEMV_ROWS>(rows, row_bytes, q);
                for i in 0..GEMV_ROWS {
                    y[i] = scalar::rescale(dots[i] - a.sum, a.s, scale);
                }
            }
            for (i, y) in rest.iter_mut().enumerate() {
                let [dot] = dot_rows::<1>(w.row(rest_first + i), row_bytes, q);
                *y = scalar::rescale(dot - a.sum, a.s, scale);
            }
        }

        #[target_feature(enable = $feature)]
        fn gemv_i2s_picked(
            y: &mut [f32],
            w: Ternary<'_>,
            picked: &[u32],
            q: &[i8],
            a: ActScale,
            scale: f32,
        ) {
            for &r in picked {
                let [dot] = dot_rows::<1>(w.row(r as usize), w.row_bytes(), q);
                y[r as usize] = scalar::rescale(dot - a.sum, a.s, scale);
            }
        }

        #[trace_timing($dot_u4)]
        #[target_feature(enable = $feature)]
        fn dot_u4(y: &mut [f64], w: &[u8], x: &ShadowVector) {
            for (y, w) in y.iter_mut().zip(w.chunks_exact(x.values.len() / 2)) {
                let [high, low] = [&x.high, &x.low].map(|x| i64::from(dot_row_u4(w, x)));
                *y = (256 * high + low) as f64;
            }
        }

        /// One row of the four-bit plane with one half of the vector: at most `15 * 128 * 65536`.
        #[inline]
        #[target_feature(enable = $feature)]
        fn dot_row_u4(w: &[u8], x: &[i8]) -> i32 {
            const BYTES: usize = screen::RUN / 2;
            let mut acc = [vdupq_n_s32(0); 2];
            for (w, x) in w.as_chunks::<BYTES>().0.iter().zip(x.as_chunks::<{ 2 * BYTES }>().0) {
                for at in [0, 16, 32, 48] {
                    let w = load_u8(&w[at..]);
                    let first = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
                    let second = vreinterpretq_s8_u8(vshrq_n_u8::<4>(w));
                    acc[0] = dot_nibbles(acc[0], first, load_i8(&x[at..]));
                    acc[1] = dot_nibbles(acc[1], second, load_i8(&x[BYTES + at..]));
                }
            }
            vaddvq_s32(vaddq_s32(acc[0], acc[1]))
        }

        #[target_feature(enable = $feature)]
        fn dot_u2(y: &mut [f64], w: &[u8], picked: &[u32], x: &[i8]) {
            let row_bytes = x.len() / 4;
            for (y, &r) in y.iter_mut().zip(picked) {
                let [dot] = dot_rows::<1>(&w[r as usize * row_bytes..][..row_bytes], row_bytes, x);
                *y = f64::from(dot);
            }
        }

        /// `sum(code * q)` of `R` consecutive packed rows with codes 0 to 3. Each row has a sum for each half of a block.
        #[inline]
        #[target_feature(enable = $feature)]
        fn dot_rows<const R: usize>(rows: &[u8], row_bytes: usize, q: &[i8]) -> [i32; R] {
            let mut acc = [[vdupq_n_s32(0); 2]; R];
            for (i, q) in q.as_chunks::<{ i2s::BLOCK }>().0.iter().enumerate() {
                let (first, second) = (load_groups(q, 0), load_groups(q, 16));
                for r in 0..R {
                    let block = &rows[r * row_bytes + i * i2s::BLOCK_BYTES..][..i2s::BLOCK_BYTES];
                    acc[r][0] = dot_codes(acc[r][0], unpack(load_u8(block)), first);
                    acc[r][1] = dot_codes(acc[r][1], unpack(load_u8(&block[16..])), second);
                }
            }
            let mut out = [0; R];
            for r in 0..R {
                out[r] = vaddvq_s32(vaddq_s32(acc[r][0], acc[r][1]));
            }
            out
        }

        #[target_feature(enable = $feature)]
        fn sum_columns(sums: &mut [i32], w: Columns<'_>, picked: &[u32], q: &[i8]) {
            let (sums, _) = sums.as_chunks_mut::<{ columns::LINE_ROWS }>();
            for first in (0..picked.len()).step_by(GROUP) {
                let group = columns::group::<GROUP>(w, &picked[first..], q);
                for (line, sums) in sums.iter_mut().enumerate() {
                    let (fours, _) = sums.as_chunks_mut::<4>();
                    for part in 0..columns::LINE / 16 {
                        let mut acc = [[vdupq_n_s32(0); 4]; 4];
                        for (quad, q) in group.columns.as_chunks::<4>().0.iter().zip(&group.q) {
                            let q = broadcast(q.to_le_bytes().map(u8::cast_signed));
                            let codes = fours_of(quad.map(|column| load_u8(&column[line][16 * part..])));
                            for (acc, codes) in acc.iter_mut().zip(codes) {
                                for (acc, codes) in acc.iter_mut().zip(unpack(codes)) {
                                    *acc = dot_fours(*acc, codes, q);
                                }
                            }
                        }
                        for (k, acc) in acc.iter().enumerate() {
                            // `unpack` has the uppermost bits first.
                            for (place, acc) in acc.iter().rev().enumerate() {
                                add_to(&mut fours[16 * k + 4 * place + part], *acc);
                            }
                        }
                    }
                }
            }
        }

        /// As in the AVX-512 kernel: a panel of rows is unpacked once, four columns of 4 rows in a register, then
        /// every tile of tokens runs through it with a broadcast activation.
        #[trace_timing($gemm)]
        #[target_feature(enable = $feature)]
        fn gemm_i2s(y: &mut [&mut [f32]], w: Ternary<'_>, x: &ActTiles<'_>, scale: f32, panel: &mut Lines<u8>) {
            panel.resize(PANEL * w.cols());
            for first in (0..w.rows()).step_by(PANEL) {
                let n_rows = PANEL.min(w.rows() - first);
                unpack_panel(panel, w.slice(first, n_rows));
                for tile in x.tiles() {
                    let y = &mut y[tile.first..][..tile.scales.len()];
                    match tile.scales.len() {
                        $($n => store_tile(y, first, n_rows, gemm_tile::<$n>(panel, tile.q), tile, scale),)*
                        n => unreachable!("a tile of {n} tokens"),
                    }
                }
            }
        }
    };
}

/// Products of integers with the dot product instructions.
pub(super) mod dot {
    use super::*;

    /// Whether this CPU has every feature this module is compiled for.
    pub(in crate::kernels) fn supported() -> bool {
        plain::supported() && is_aarch64_feature_detected!("dotprod")
    }

    // 24 sums, four registers of weights, and the rest for activations.
    ternary_products!(
        "neondot", "neon,dotprod", tile: 6 [6 5 4 3 2 1],
        neondot_gemv_i2s, neondot_gemm_i2s, neondot_dot_u4
    );

    /// Adds the products of 64 codes with their four groups of activations.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn dot_codes(acc: int32x4_t, codes: [int8x16_t; 4], q: [int8x16_t; 4]) -> int32x4_t {
        let acc = sdot(sdot(acc, codes[0], q[0]), codes[1], q[1]);
        sdot(sdot(acc, codes[2], q[2]), codes[3], q[3])
    }

    /// `sum(code * q)` of the 16 rows of a panel with each of `T` tokens.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn gemm_tile<const T: usize>(panel: &[u8], q: &[i8]) -> [[int32x4_t; 4]; T] {
        let mut acc = [[vdupq_n_s32(0); 4]; T];
        let (weights, _) = bytemuck::cast_slice(panel).as_chunks::<{ 4 * PANEL }>();
        let (quads, _) = q.as_chunks::<4>();
        for (w, q) in weights.iter().zip(quads.chunks_exact(T)) {
            let w = [load_i8(&w[..16]), load_i8(&w[16..]), load_i8(&w[32..]), load_i8(&w[48..])];
            for t in 0..T {
                let q = broadcast(q[t]);
                for i in 0..4 {
                    acc[t][i] = sdot(acc[t][i], w[i], q);
                }
            }
        }
        acc
    }

    /// Adds the sums of four neighbouring products each.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn dot_fours(acc: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
        sdot(acc, codes, q)
    }

    /// Adds the products of 16 small codes with 16 values.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn dot_nibbles(acc: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
        sdot(acc, codes, q)
    }

    /// Adds four neighbouring products of bytes to each lane.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn sdot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        let mut sum = acc;
        // SAFETY: reads and writes the named registers only; this function is compiled for CPUs that have it.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                sum = inout(vreg) sum,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}

/// Products of integers on the first generations of 64-bit ARM.
pub(super) mod plain {
    use super::*;

    /// Whether this CPU has every feature this module is compiled for.
    pub(in crate::kernels) fn supported() -> bool {
        is_aarch64_feature_detected!("neon")
    }

    // Half a panel at a time: 16 registers of i16 sums, 8 of i32 sums, two of weights, and one activation.
    ternary_products!("neon", "neon", tile: 4 [4 3 2 1], neon_gemv_i2s, neon_gemm_i2s, neon_dot_u4);

    /// Adds the products of 64 codes with their four groups of activations.
    #[inline]
    #[target_feature(enable = "neon")]
    fn dot_codes(acc: int32x4_t, codes: [int8x16_t; 4], q: [int8x16_t; 4]) -> int32x4_t {
        let products = multiply(multiply(vdupq_n_s16(0), codes[0], q[0]), codes[1], q[1]);
        let products = multiply(multiply(products, codes[2], q[2]), codes[3], q[3]);
        vpadalq_s16(acc, products) // 8 products of at most 3 * 128 in each lane
    }

    /// Adds the sums of four neighbouring products each.
    #[inline]
    #[target_feature(enable = "neon")]
    fn dot_fours(acc: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
        let low = vmull_s8(vget_low_s8(codes), vget_low_s8(q));
        vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(codes, q))) // 2 products of at most 3 * 128 in each lane
    }

    /// Adds the products of 16 small codes with 16 values.
    #[inline]
    #[target_feature(enable = "neon")]
    fn dot_nibbles(acc: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
        vpadalq_s16(acc, multiply(vdupq_n_s16(0), codes, q)) // 2 products of at most 15 * 128 in each lane
    }

    /// Adds the products of two registers of bytes to i16 lanes.
    ///
    /// Not with intrinsics: from those the compiler widens the activations once for all rows, and then has to widen
    /// every register of codes, too, which takes twice the instructions.
    #[inline]
    #[target_feature(enable = "neon")]
    fn multiply(acc: int16x8_t, a: int8x16_t, b: int8x16_t) -> int16x8_t {
        let mut sum = acc;
        // SAFETY: reads and writes the named registers only.
        unsafe {
            asm!(
                "smlal {sum:v}.8h, {a:v}.8b, {b:v}.8b",
                "smlal2 {sum:v}.8h, {a:v}.16b, {b:v}.16b",
                sum = inout(vreg) sum,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }

    /// `sum(code * q)` of the 16 rows of a panel with each of `T` tokens.
    #[inline]
    #[target_feature(enable = "neon")]
    fn gemm_tile<const T: usize>(panel: &[u8], q: &[i8]) -> [[int32x4_t; 4]; T] {
        // 32 steps of at most 2 * 128 each, two lanes joined, are 2^14; one block of 128 columns is 32 steps.
        const STEPS: usize = i2s::BLOCK / 4;
        let mut sums = [[vdupq_n_s32(0); 4]; T];
        let (weights, _) = bytemuck::cast_slice(panel).as_chunks::<{ 4 * PANEL }>();
        let (quads, _) = q.as_chunks::<4>();
        for half in [0, 2] {
            for (weights, quads) in weights.chunks_exact(STEPS).zip(quads.chunks_exact(STEPS * T)) {
                // For each token and each 4 rows, products of rows 0 and 1, and of rows 2 and 3.
                let mut acc = [[[vdupq_n_s16(0); 2]; 2]; T];
                for (w, q) in weights.iter().zip(quads.chunks_exact(T)) {
                    let w = [load_i8(&w[16 * half..]), load_i8(&w[16 * half + 16..])];
                    for t in 0..T {
                        let q = broadcast(q[t]);
                        for i in 0..2 {
                            acc[t][i][0] = vmlal_s8(acc[t][i][0], vget_low_s8(w[i]), vget_low_s8(q));
                            acc[t][i][1] = vmlal_high_s8(acc[t][i][1], w[i], q);
                        }
                    }
                }
                for t in 0..T {
                    for i in 0..2 {
                        let rows = vpaddq_s16(acc[t][i][0], acc[t][i][1]);
                        sums[t][half + i] = vpadalq_s16(sums[t][half + i], rows);
                    }
                }
            }
        }
        sums
    }
}

/// The bytes of four columns in fours: registers `k` of [`columns`].
#[inline]
#[target_feature(enable = "neon")]
fn fours_of([a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let pairs =
        [vzip1q_u8(a, b), vzip1q_u8(c, d), vzip2q_u8(a, b), vzip2q_u8(c, d)].map(|v| vreinterpretq_u16_u8(v));
    let [ab, cd, ab_high, cd_high] = pairs;
    [vzip1q_u16(ab, cd), vzip2q_u16(ab, cd), vzip1q_u16(ab_high, cd_high), vzip2q_u16(ab_high, cd_high)]
        .map(|v| vreinterpretq_u8_u16(v))
}

#[inline]
#[target_feature(enable = "neon")]
fn add_to(sums: &mut [i32; 4], more: int32x4_t) {
    // SAFETY: 4 readable values by type.
    let before = unsafe { vld1q_s32(sums.as_ptr()) };
    let sum = vaddq_s32(before, more);
    // SAFETY: 4 writable values by type.
    unsafe { vst1q_s32(sums.as_mut_ptr(), sum) };
}

/// The four groups of 16 packed bytes: codes of the first 32 columns, of the next, and so on.
#[inline]
#[target_feature(enable = "neon")]
fn unpack(w: uint8x16_t) -> [int8x16_t; 4] {
    let two_bits = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(w)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(w), two_bits)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(w), two_bits)),
        vreinterpretq_s8_u8(vandq_u8(w, two_bits)),
    ]
}

/// The activations that meet the packed bytes `at..at + 16` of a block.
#[inline]
#[target_feature(enable = "neon")]
fn load_groups(q: &[i8; i2s::BLOCK], at: usize) -> [int8x16_t; 4] {
    [load_i8(&q[at..]), load_i8(&q[32 + at..]), load_i8(&q[64 + at..]), load_i8(&q[96 + at..])]
}

#[inline]
#[target_feature(enable = "neon")]
fn load_u8(bytes: &[u8]) -> uint8x16_t {
    let bytes: &[u8; 16] = bytes.first_chunk().expect("16 bytes are left");
    // SAFETY: 16 readable bytes by type; this load accepts any alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i8(values: &[i8]) -> int8x16_t {
    vreinterpretq_s8_u8(load_u8(bytemuck::cast_slice(values)))
}

/// Four activations, four times.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(q: [i8; 4]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(bytemuck::cast(q)))
}

/// Unpacks up to 16 rows to `[cols / 4, 16, 4]` codes; rows past the last repeat it.
#[inline]
#[target_feature(enable = "neon")]
fn unpack_panel(panel: &mut [u8], w: Ternary<'_>) {
    let last = w.rows() - 1;
    let (out, _) = panel.as_chunks_mut::<16>();
    for block in 0..w.cols() / i2s::BLOCK {
        for four in 0..4 {
            for half in 0..2 {
                let at = i2s::BLOCK_BYTES * block + 16 * half;
                let mut rows = [vdupq_n_u8(0); 4];
                for r in 0..4 {
                    rows[r] = load_u8(&w.row((4 * four + r).min(last))[at..]);
                }
                // Register d holds, for each of 4 rows, bytes 4d..4d+4 of this half of the block.
                for (d, bytes) in transpose_4x4(rows).into_iter().enumerate() {
                    for (g, codes) in unpack(bytes).into_iter().enumerate() {
                        let out = &mut out[4 * (32 * block + 8 * g + 4 * half + d) + four];
                        // SAFETY: 16 writable bytes by type; this store accepts any alignment.
                        unsafe { vst1q_u8(out.as_mut_ptr(), vreinterpretq_u8_s8(codes)) };
                    }
                }
            }
        }
    }
}

/// Transposes a 4 x 4 matrix of groups of four bytes: result `d` holds group `d` of every row.
#[inline]
#[target_feature(enable = "neon")]
fn transpose_4x4(rows: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let [a, b, c, d] = rows.map(|row| vreinterpretq_u32_u8(row));
    let (ab, ab_odd) = (vtrn1q_u32(a, b), vtrn2q_u32(a, b)); // a0 b0 a2 b2, a1 b1 a3 b3
    let (cd, cd_odd) = (vtrn1q_u32(c, d), vtrn2q_u32(c, d));
    let first = |x, y| vreinterpretq_u8_u64(vtrn1q_u64(vreinterpretq_u64_u32(x), vreinterpretq_u64_u32(y)));
    let second = |x, y| vreinterpretq_u8_u64(vtrn2q_u64(vreinterpretq_u64_u32(x), vreinterpretq_u64_u32(y)));
    [first(ab, cd), first(ab_odd, cd_odd), second(ab, cd), second(ab_odd, cd_odd)]
}

/// `y[t][first..first + n_rows] = (dots[t] - sum(q)) / s * scale` for the `T` tokens of one tile.
#[inline]
#[target_feature(enable = "neon")]
fn store_tile<const T: usize>(
    y: &mut [&mut [f32]],
    first: usize,
    n_rows: usize,
    dots: [[int32x4_t; 4]; T],
    tile: Tile<'_>,
    scale: f32,
) {
    for t in 0..T {
        let a = tile.scales[t];
        for (four, y) in y[t][first..][..n_rows].chunks_mut(4).enumerate() {
            let dot = vsubq_s32(dots[t][four], vdupq_n_s32(a.sum));
            let out = vmulq_f32(vdivq_f32(vcvtq_f32_s32(dot), vdupq_n_f32(a.s)), vdupq_n_f32(scale));
            let mut values = [0.0_f32; 4];
            // SAFETY: 4 writable values by type; this store accepts any alignment.
            unsafe { vst1q_f32(values.as_mut_ptr(), out) };
            y.copy_from_slice(&values[..y.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test's own switch, never read by the engine")]
    fn the_products_that_ci_names_are_chosen() {
        let Ok(name) = std::env::var("BITNET_REQUIRE_KERNEL") else { return };
        assert_eq!(Kernels::detect().ternary_name(), name);
    }
}
