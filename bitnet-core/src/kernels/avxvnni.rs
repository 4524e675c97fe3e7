//! AVX2 with AVX-VNNI: `vpdpbusd` adds four products of bytes to an i32 lane, so that none need be moved in time.
//!
//! Everything else is as in `avx2.rs`.

use std::arch::x86_64::*;

use super::avx2::{
    self, AHEAD, GROUP, PANEL, PICKS_AHEAD, add_to, integer_products, load_i8, load_u8, prefetch, reduce_i32,
    store_tile, unpack_panel,
};
use super::{ActTiles, Kernels, Tiling, scalar};
use crate::ops::screen::{self, ShadowVector};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{self, Columns, Group};
use crate::quant::i2s::{self, Ternary};
use crate::trace::trace_timing;

/// Whether this CPU has every feature this file is compiled for.
pub(super) fn supported() -> bool {
    avx2::supported() && is_x86_feature_detected!("avxvnni")
}

/// The AVX2 kernels where there is AVX-VNNI.
pub(super) const KERNELS: Kernels = Kernels {
    name: "avxvnni",
    ternary: "avxvnni",
    tiling: Tiling::Even(TILE),
    gemv_i2s,
    gemv_i2s_picked,
    gemm_i2s,
    preparation: None,
    sum_columns,
    dot_u4,
    dot_u2,
    ..avx2::KERNELS
};

integer_products!(
    "avxvnni,avx2,fma,f16c",
    avxvnni_gemv_i2s,
    avxvnni_gemv_i2s_picked,
    avxvnni_dot_u4,
    avxvnni_dot_u2
);

/// `sum(code * q)` of a packed row with codes 0 to 3, in parts, asking for as many bytes from `ahead` on the way.
///
/// Two blocks at a time, in sums of their own, since one waits for the last. The codes are multiplied where they stand,
/// as 64, 16, 4 and 1 times themselves: of ternary codes a lane takes at most `4 * 128 * 128` for each block of 128
/// weights, which fits i32 up to 2^22 columns; those of a shadow, up to 3, have at most 2^16.
#[inline]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn sum_row(row: &[u8], ahead: *const u8, q: &[i8]) -> __m256i {
    let mut acc = [[_mm256_setzero_si256(); 4]; 2];
    let (pairs, last) = row.as_chunks::<{ 2 * i2s::BLOCK_BYTES }>();
    let (pairs_q, last_q) = q.as_chunks::<{ 2 * i2s::BLOCK }>();
    for (i, (pair, q)) in pairs.iter().zip(pairs_q).enumerate() {
        prefetch(ahead.wrapping_add(i * 2 * i2s::BLOCK_BYTES));
        add_block(&mut acc[0], &pair[..i2s::BLOCK_BYTES], &q[..i2s::BLOCK]);
        add_block(&mut acc[1], &pair[i2s::BLOCK_BYTES..], &q[i2s::BLOCK..]);
    }
    if !last.is_empty() {
        add_block(&mut acc[0], last, last_q);
    }
    let mut sums = [_mm256_setzero_si256(); 4];
    for k in 0..4 {
        sums[k] = _mm256_add_epi32(acc[0][k], acc[1][k]);
    }
    // Each sum is a multiple of the place its codes stood at, so that the shifts lose nothing.
    let high = _mm256_add_epi32(_mm256_srai_epi32::<6>(sums[0]), _mm256_srai_epi32::<4>(sums[1]));
    let low = _mm256_add_epi32(_mm256_srai_epi32::<2>(sums[2]), sums[3]);
    _mm256_add_epi32(high, low)
}

/// Adds the products of one block of codes with its four groups of activations, each to a sum of its own.
#[inline]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn add_block(acc: &mut [__m256i; 4], block: &[u8], q: &[i8]) {
    let block = load_u8(block);
    for (k, mask) in [0b1100_0000_u8, 0b0011_0000, 0b0000_1100, 0b0000_0011].into_iter().enumerate() {
        let codes = _mm256_and_si256(block, _mm256_set1_epi8(mask.cast_signed()));
        acc[k] = add_fours(acc[k], codes, load_i8(&q[32 * k..]));
    }
}

/// Adds four neighbouring products of bytes to each lane.
#[inline]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn add_fours(acc: __m256i, codes: __m256i, q: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(acc, codes, q)
}

#[trace_timing(avxvnni_sum_columns)]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn sum_columns(sums: &mut [i32], w: Columns<'_>, picked: &[u32], q: &[i8]) {
    let (sums, _) = sums.as_chunks_mut::<{ columns::LINE_ROWS }>();
    for first in (0..picked.len()).step_by(GROUP) {
        let group = columns::group::<GROUP>(w, &picked[first..], q);
        for (line, sums) in sums.iter_mut().enumerate() {
            for column in group.ahead {
                if let Some(line) = column.get(line) {
                    prefetch(line.as_ptr());
                }
            }
            let (eights, _) = sums.as_chunks_mut::<8>();
            for half in 0..2 {
                let (low, high) =
                    (sum_half::<false>(&group, line, half), sum_half::<true>(&group, line, half));
                for (k, acc) in low.iter().chain(&high).enumerate() {
                    let to = |place: usize| 8 * k + 2 * place + half;
                    add_to(&mut eights[to(0)], acc[0]);
                    add_to(&mut eights[to(1)], _mm256_srai_epi32::<2>(acc[1]));
                    add_to(&mut eights[to(2)], _mm256_srai_epi32::<4>(acc[2]));
                    add_to(&mut eights[to(3)], _mm256_srai_epi32::<6>(acc[3]));
                }
            }
        }
    }
}

/// The products of half a line of a group's columns, of two of the four registers of fours that it makes: codes where
/// they stand, as 1, 4, 16 and 64 times themselves. See [`columns`] for what stands where.
#[inline]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn sum_half<const HIGH: bool>(group: &Group<'_, GROUP>, line: usize, half: usize) -> [[__m256i; 4]; 2] {
    let mut acc = [[_mm256_setzero_si256(); 4]; 2];
    for (quad, &q) in group.columns.as_chunks::<4>().0.iter().zip(&group.q) {
        let mut halves = [_mm256_setzero_si256(); 4];
        for (to, column) in halves.iter_mut().zip(quad) {
            *to = load_u8(&column[line][32 * half..]);
        }
        let [a, b, c, d] = halves;
        let (ab, cd) = if HIGH {
            (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d))
        } else {
            (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d))
        };
        let (fours, q) =
            ([_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd)], _mm256_set1_epi32(q));
        for (acc, codes) in acc.iter_mut().zip(fours) {
            for (acc, mask) in acc.iter_mut().zip([0b0000_0011_u8, 0b0000_1100, 0b0011_0000, 0b1100_0000]) {
                let codes = _mm256_and_si256(codes, _mm256_set1_epi8(mask.cast_signed()));
                *acc = add_fours(*acc, codes, q);
            }
        }
    }
    acc
}

/// Tokens of a tile: twelve sums, two registers of weights, and an activation.
const TILE: usize = 6;

/// As in the AVX-512 kernel: a panel of rows is unpacked once, four columns of 8 rows across a register, then every tile
/// of tokens runs through it with a broadcast activation.
#[trace_timing(avxvnni_gemm_i2s)]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn gemm_i2s(y: &mut [&mut [f32]], w: Ternary<'_>, x: &ActTiles<'_>, scale: f32, panel: &mut Lines<u8>) {
    panel.resize(PANEL * w.cols());
    for first in (0..w.rows()).step_by(PANEL) {
        let n_rows = PANEL.min(w.rows() - first);
        unpack_panel(panel, w.slice(first, n_rows));
        for tile in x.tiles() {
            let y = &mut y[tile.first..][..tile.scales.len()];
            match tile.scales.len() {
                6 => store_tile(y, first, n_rows, sum_tile::<6>(panel, tile.q), tile.scales, scale),
                5 => store_tile(y, first, n_rows, sum_tile::<5>(panel, tile.q), tile.scales, scale),
                4 => store_tile(y, first, n_rows, sum_tile::<4>(panel, tile.q), tile.scales, scale),
                3 => store_tile(y, first, n_rows, sum_tile::<3>(panel, tile.q), tile.scales, scale),
                2 => store_tile(y, first, n_rows, sum_tile::<2>(panel, tile.q), tile.scales, scale),
                1 => store_tile(y, first, n_rows, sum_tile::<1>(panel, tile.q), tile.scales, scale),
                n => unreachable!("a tile of {n} tokens"),
            }
        }
    }
}

/// `sum(code * q)` of the 16 rows of a panel with each of `T` tokens.
#[inline]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn sum_tile<const T: usize>(panel: &[u8], q: &[i8]) -> [[__m256i; 2]; T] {
    let mut acc = [[_mm256_setzero_si256(); 2]; T];
    let (weights, _) = panel.as_chunks::<{ 4 * PANEL }>();
    let (quads, _) = q.as_chunks::<4>();
    for (w, q) in weights.iter().zip(quads.chunks_exact(T)) {
        let w = [load_u8(&w[..32]), load_u8(&w[32..])];
        for t in 0..T {
            let q = _mm256_set1_epi32(i32::from_le_bytes(q[t].map(i8::cast_unsigned)));
            acc[t][0] = add_fours(acc[t][0], w[0], q);
            acc[t][1] = add_fours(acc[t][1], w[1], q);
        }
    }
    acc
}

/// One row with the two halves of the vector.
///
/// The upper four bits are multiplied where they stand, as 16 times themselves; a lane takes at most `2 * 4 * 240 * 128`
/// for each 128 weights, within i32 up to a million columns.
#[inline]
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn dot_row_u4(w: &[u8], x: &ShadowVector) -> f64 {
    const BYTES: usize = screen::RUN / 2;
    let four_bits = _mm256_set1_epi8(15);
    let (mut ones, mut sixteens) = ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
    let halves = x.high.as_chunks::<{ screen::RUN }>().0.iter().zip(x.low.as_chunks::<{ screen::RUN }>().0);
    for (w, (high, low)) in w.as_chunks::<BYTES>().0.iter().zip(halves) {
        prefetch(w.as_ptr().wrapping_add(AHEAD));
        for at in [0, 32] {
            let w = load_u8(&w[at..]);
            let (first, second) = (_mm256_and_si256(w, four_bits), _mm256_andnot_si256(four_bits, w));
            for (i, x) in [high, low].into_iter().enumerate() {
                ones[i] = add_fours(ones[i], first, load_i8(&x[at..]));
                sixteens[i] = add_fours(sixteens[i], second, load_i8(&x[BYTES + at..]));
            }
        }
    }
    let mut dots = [0; 2];
    for i in 0..2 {
        dots[i] = i64::from(reduce_i32(_mm256_add_epi32(ones[i], _mm256_srai_epi32::<4>(sixteens[i]))));
    }
    (256 * dots[0] + dots[1]) as f64
}
