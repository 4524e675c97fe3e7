//! AVX2 with FMA and F16C: one block of 128 packed weights at a time. Products of f16 values are in `avx2f16.rs`, those
//! of weights packed five to a byte in `avx2tri5.rs`, those with many tokens in `avx2sums.rs`.
//!
//! Products of codes 0..=2 and activations are added in i16 lanes by `maddubs`, and moved to i32 lanes before
//! they can overflow. Where the CPU has an instruction that adds them in i32 lanes, `avxvnni.rs` has the products.
#![expect(unsafe_code, reason = "loads and stores through pointers taken from slices of checked length")]

use std::arch::x86_64::*;

use super::avx2f16::{attn_mix, attn_scores, gemv_f16};
use super::{Kernels, avx2, avx2sums, avx2tri5, elementwise, scalar};
use crate::ops::screen::{self, ShadowVector};
use crate::quant::act::ActScale;
use crate::quant::columns::{self, Columns};
use crate::quant::i2s::{self, Ternary};
use crate::trace::trace_timing;

/// Whether this CPU has every feature this file is compiled for.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The AVX2 kernels.
pub(super) const KERNELS: Kernels = Kernels {
    isa: super::Isa::Avx2,
    name: "avx2",
    ternary: "avx2",
    tri5: "tri5-avx2",
    tiling: avx2sums::TILING,
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
    gemm_i2s: avx2sums::gemm_i2s,
    preparation: Some(avx2sums::PREPARATION),
    pack_columns,
    sum_columns,
    join_sums,
    pack_tri5,
    unpack_tri5: avx2tri5::unpack_tri5,
    gemv_tri5: avx2tri5::gemv_tri5,
    gemv_tri5_picked: avx2tri5::gemv_tri5_picked,
    gemm_tri5: None,
    gemv_f16,
    attn_scores,
    attn_mix,
    ask,
};

elementwise!("avx2,fma,f16c");

// ------------------------------------------------------------------------------------------ products of integers

/// How far ahead of a load the next bytes are asked for; see the AVX-512 kernel.
pub(super) const AHEAD: usize = 8192;
/// Rows ahead of a picked one whose bytes are asked for: no hardware foresees which comes next.
pub(super) const PICKS_AHEAD: usize = 8;
/// Columns of a group: what passes between loading the sums of a line and storing them.
pub(super) const GROUP: usize = 16;
/// Rows of a panel: two registers of 8 sums.
pub(super) const PANEL: usize = 16;

/// The products of integers with one vector, of one table, but for the loops that multiply: `sum_row` and `dot_row_u4` of
/// the module that calls it.
macro_rules! integer_products {
    ($feature:literal, $gemv:ident, $picked:ident, $u4:ident, $u2:ident $(,)?) => {
        #[trace_timing($gemv)]
        #[target_feature(enable = $feature)]
        fn gemv_i2s(y: &mut [f32], w: Ternary<'_>, q: &[i8], a: ActScale, scale: f32) {
            // Sums of four rows go on together.
            for (y, rows) in y.chunks_mut(4).zip(w.bytes().chunks(4 * w.row_bytes())) {
                let mut sums = [_mm256_setzero_si256(); 4];
                for (sum, row) in sums.iter_mut().zip(rows.chunks_exact(w.row_bytes())) {
                    *sum = sum_row(row, row.as_ptr().wrapping_add(AHEAD), q);
                }
                avx2::store_four(y, avx2::reduce_four(sums), a, scale);
            }
        }

        #[trace_timing($picked)]
        #[target_feature(enable = $feature)]
        fn gemv_i2s_picked(y: &mut [f32], w: Ternary<'_>, picked: &[u32], q: &[i8], a: ActScale, scale: f32) {
            for (i, &r) in picked.iter().enumerate() {
                let later = picked.get(i + PICKS_AHEAD).copied().unwrap_or(r);
                let dot = reduce_i32(sum_row(w.row(r as usize), w.row(later as usize).as_ptr(), q));
                y[r as usize] = scalar::rescale(dot - a.sum, a.s, scale);
            }
        }

        #[trace_timing($u4)]
        #[target_feature(enable = $feature)]
        fn dot_u4(y: &mut [f64], w: &[u8], x: &ShadowVector) {
            for (y, w) in y.iter_mut().zip(w.chunks_exact(x.values.len() / 2)) {
                *y = dot_row_u4(w, x);
            }
        }

        #[trace_timing($u2)]
        #[target_feature(enable = $feature)]
        fn dot_u2(y: &mut [f64], w: &[u8], picked: &[u32], x: &[i8]) {
            let row = |r: u32| &w[r as usize * (x.len() / 4)..][..x.len() / 4];
            for (i, (y, &r)) in y.iter_mut().zip(picked).enumerate() {
                let later = row(picked.get(i + PICKS_AHEAD).copied().unwrap_or(r)).as_ptr();
                *y = f64::from(reduce_i32(sum_row(row(r), later, x)));
            }
        }
    };
}
pub(super) use integer_products;

integer_products!("avx2,fma,f16c", avx2_gemv_i2s, avx2_gemv_i2s_picked, avx2_dot_u4, avx2_dot_u2);

// ------------------------------------------------------------------------------------ ternary matrix x vector

/// Blocks whose products fit i16 lanes: a block adds at most 4 * 2 * 3 * 128 = 3072 to each.
const I16_BLOCKS: usize = 10;

/// `sum(code * q)` of a packed row with codes 0 to 3, in parts, asking for as many bytes from `ahead` on the way.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_row(row: &[u8], ahead: *const u8, q: &[i8]) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let runs = row.chunks(I16_BLOCKS * i2s::BLOCK_BYTES).zip(q.chunks(I16_BLOCKS * i2s::BLOCK));
    for (run, (row, q)) in runs.enumerate() {
        let mut acc = _mm256_setzero_si256();
        let blocks = row.as_chunks::<{ i2s::BLOCK_BYTES }>().0.iter().zip(q.as_chunks::<{ i2s::BLOCK }>().0);
        for (i, (block, q)) in blocks.enumerate() {
            prefetch(ahead.wrapping_add((run * I16_BLOCKS + i) * i2s::BLOCK_BYTES));
            let q = [load_i8(&q[..32]), load_i8(&q[32..]), load_i8(&q[64..]), load_i8(&q[96..])];
            acc = _mm256_add_epi16(acc, dot_block(load_u8(block), q));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
    }
    sum
}

/// Asks for the cache line at an address that need not be one of ours.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch(address: *const u8) {
    #[allow(unused_unsafe, reason = "newer compilers know that a prefetch is safe")]
    // SAFETY: a prefetch reads nothing the program can see and cannot fault, wherever it points.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
}

/// Asks for the cache lines of every `step`-th value.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn ask(values: &[u16], step: usize) {
    for value in values.iter().step_by(step) {
        prefetch(std::ptr::from_ref(value).cast());
    }
}

/// Products of one block of codes with its four groups of activations, in i16 lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_block(w: __m256i, q: [__m256i; 4]) -> __m256i {
    let two_bits = _mm256_set1_epi8(3);
    let a = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<6>(w), two_bits), q[0]);
    let b = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(w), two_bits), q[1]);
    let c = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<2>(w), two_bits), q[2]);
    let d = _mm256_maddubs_epi16(_mm256_and_si256(w, two_bits), q[3]);
    _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_u8(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; 32] = bytes.first_chunk().expect("32 bytes are left");
    // SAFETY: 32 readable bytes by type; this load accepts any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_i8(values: &[i8]) -> __m256i {
    load_u8(bytemuck::cast_slice(values))
}

/// The sum of eight i32 lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn reduce_i32(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<1>(v)))
}

/// The sums of the eight i32 lanes of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn reduce_four(v: [__m256i; 4]) -> __m128i {
    let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

/// Up to 4 results from the sums of codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_four(y: &mut [f32], sums: __m128i, a: ActScale, scale: f32) {
    let dots = _mm_cvtepi32_ps(_mm_sub_epi32(sums, _mm_set1_epi32(a.sum)));
    let out = _mm_mul_ps(_mm_div_ps(dots, _mm_set1_ps(a.s)), _mm_set1_ps(scale));
    let mut values = [0.0_f32; 4];
    // SAFETY: 4 writable values by type; this store accepts any alignment.
    unsafe { _mm_storeu_ps(values.as_mut_ptr(), out) };
    let n = y.len();
    match y.first_chunk_mut() {
        Some(y) => *y = values,
        None => y.copy_from_slice(&values[..n]),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_to(sums: &mut [i32; 8], more: __m256i) {
    // SAFETY: 8 readable values by type; this load accepts any alignment.
    let before = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
    let sum = _mm256_add_epi32(before, more);
    // SAFETY: 8 writable values by type; this store accepts any alignment.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), sum) };
}

// ---------------------------------------------------------------------------------- ternary columns x vector

#[trace_timing(avx2_sum_columns)]
#[target_feature(enable = "avx2,fma,f16c")]
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
            let lines = group.columns.map(|column| &column[line]);
            let (eights, _) = sums.as_chunks_mut::<8>();
            for half in 0..2 {
                for (j, acc) in sum_half(&lines, &group.q, half).into_iter().enumerate() {
                    for (place, sums) in acc.into_iter().enumerate() {
                        let sign = _mm256_srai_epi16::<15>(sums);
                        let to = |k: usize| 8 * k + 2 * place + half;
                        add_to(&mut eights[to(2 * j)], _mm256_unpacklo_epi16(sums, sign));
                        add_to(&mut eights[to(2 * j + 1)], _mm256_unpackhi_epi16(sums, sign));
                    }
                }
            }
        }
    }
}

/// The products of half a line of a group's columns: those with the codes at each of four places in a byte, of the two
/// registers that two columns make. See [`columns`] for what stands where.
///
/// Sums fit i16: a lane takes `2 * 2 * 128` of each of eight pairs of columns, or four times that where codes are
/// multiplied at bits 3 and 2.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_half(lines: &[&[u8; columns::LINE]; GROUP], q: &[i32; GROUP], half: usize) -> [[__m256i; 4]; 2] {
    let (ones, fours) = (_mm256_set1_epi8(0b0011), _mm256_set1_epi8(0b1100));
    let mut acc = [[_mm256_setzero_si256(); 4]; 2];
    for (i, pair) in lines.as_chunks::<2>().0.iter().enumerate() {
        let [a, b] = [load_u8(&pair[0][32 * half..]), load_u8(&pair[1][32 * half..])];
        let q = _mm256_set1_epi16((q[i / 2] >> (16 * (i % 2))) as i16);
        for (acc, codes) in acc.iter_mut().zip([_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)]) {
            let upper = _mm256_srli_epi16::<4>(codes);
            let places = [
                _mm256_and_si256(codes, ones),
                _mm256_and_si256(codes, fours),
                _mm256_and_si256(upper, ones),
                _mm256_and_si256(upper, fours),
            ];
            for (acc, codes) in acc.iter_mut().zip(places) {
                *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(codes, q));
            }
        }
    }
    for acc in &mut acc {
        acc[1] = _mm256_srai_epi16::<2>(acc[1]);
        acc[3] = _mm256_srai_epi16::<2>(acc[3]);
    }
    acc
}

// ------------------------------------------------------------------------------------ ternary matrix x matrix

/// Tokens multiplied at a time: eight i16 accumulators, two registers of weights, and the rest for activations.
pub(super) const TOGETHER: usize = 4;

/// `sum(code * q)` of the 16 rows of a panel with each of the first `T` tokens of `n` that `q` has.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_tile<const T: usize>(panel: &[u8], q: &[i8], n: usize) -> [[__m256i; 2]; T] {
    // 32 steps of at most 2 * 2 * 128 = 512 stay in i16 lanes; one block of 128 columns is 32 steps.
    const STEPS: usize = i2s::BLOCK / 4;
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    let (weights, _) = panel.as_chunks::<{ 4 * PANEL }>();
    let (quads, _) = q.as_chunks::<4>();
    for (weights, quads) in weights.chunks_exact(STEPS).zip(quads.chunks(STEPS * n)) {
        let mut acc = [[_mm256_setzero_si256(); 2]; T];
        for (w, q) in weights.iter().zip(quads.chunks(n)) {
            let q: &[_; T] = q.first_chunk().expect("as many tokens are left");
            let w = [load_u8(&w[..32]), load_u8(&w[32..])];
            for t in 0..T {
                let q = _mm256_set1_epi32(i32::from_le_bytes(q[t].map(|q| q as u8)));
                acc[t][0] = _mm256_add_epi16(acc[t][0], _mm256_maddubs_epi16(w[0], q));
                acc[t][1] = _mm256_add_epi16(acc[t][1], _mm256_maddubs_epi16(w[1], q));
            }
        }
        for t in 0..T {
            for half in 0..2 {
                let wide = _mm256_madd_epi16(acc[t][half], _mm256_set1_epi16(1));
                sums[t][half] = _mm256_add_epi32(sums[t][half], wide);
            }
        }
    }
    sums
}

/// `y[t][first..first + n_rows]` from the sums of the `T` tokens of one tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_tile<const T: usize>(
    y: &mut [&mut [f32]],
    first: usize,
    n_rows: usize,
    sums: [[__m256i; 2]; T],
    scales: &[ActScale],
    scale: f32,
) {
    for t in 0..T {
        let a = scales[t];
        for half in 0..2 {
            let n = n_rows.saturating_sub(8 * half).min(8);
            let dot = _mm256_sub_epi32(sums[t][half], _mm256_set1_epi32(a.sum));
            store_eight(&mut y[t][first + 8 * half.min(n)..][..n], dot, a.s, scale);
        }
    }
}

/// Up to 8 results of one token from sums that are its weights' products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_eight(y: &mut [f32], sums: __m256i, s: f32, scale: f32) {
    let out =
        _mm256_mul_ps(_mm256_div_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(s)), _mm256_set1_ps(scale));
    let mut values = [0.0_f32; 8];
    // SAFETY: 8 writable values by type; this store accepts any alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), out) };
    // All but the last are stored at once: a copy of unknown length is a call.
    let n = y.len();
    match y.first_chunk_mut() {
        Some(y) => *y = values,
        None => y.copy_from_slice(&values[..n]),
    }
}

/// Unpacks up to 16 rows to `[cols / 4, 16, 4]` codes; rows past the last repeat it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack_panel(panel: &mut [u8], w: Ternary<'_>) {
    let two_bits = _mm256_set1_epi8(3);
    let last = w.rows() - 1;
    let (out, _) = panel.as_chunks_mut::<32>();
    for half in 0..2 {
        for block in 0..w.cols() / i2s::BLOCK {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = load_u8(&w.row((8 * half + r).min(last))[i2s::BLOCK_BYTES * block..]);
            }
            // Register d holds, for each of 8 rows, bytes 4d..4d+4 of the block.
            for (d, dwords) in transpose_8x8(rows).into_iter().enumerate() {
                for (g, codes) in [
                    _mm256_srli_epi16::<6>(dwords),
                    _mm256_srli_epi16::<4>(dwords),
                    _mm256_srli_epi16::<2>(dwords),
                    dwords,
                ]
                .into_iter()
                .enumerate()
                {
                    let out = &mut out[2 * (block * 32 + g * 8 + d) + half];
                    let codes = _mm256_and_si256(codes, two_bits);
                    // SAFETY: 32 writable bytes by type; this store accepts any alignment.
                    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) };
                }
            }
        }
    }
}

/// Transposes an 8 x 8 matrix of i32: result `d` holds value `d` of every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose_8x8(r: [__m256i; 8]) -> [__m256i; 8] {
    // Four rows at a time: register k holds value k of them in its low lane, value k + 4 in its high one.
    let four = |a: __m256i, b: __m256i, c: __m256i, d: __m256i| {
        let (ab_lo, ab_hi) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_lo, cd_hi) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_lo, cd_lo),
            _mm256_unpackhi_epi64(ab_lo, cd_lo),
            _mm256_unpacklo_epi64(ab_hi, cd_hi),
            _mm256_unpackhi_epi64(ab_hi, cd_hi),
        ]
    };
    let (low, high) = (four(r[0], r[1], r[2], r[3]), four(r[4], r[5], r[6], r[7]));
    let mut out = [_mm256_setzero_si256(); 8];
    for k in 0..4 {
        out[k] = _mm256_permute2x128_si256::<0x20>(low[k], high[k]);
        out[k + 4] = _mm256_permute2x128_si256::<0x31>(low[k], high[k]);
    }
    out
}

// ------------------------------------------------------------------------------------------------ screened head

/// One row with the two halves of the vector; no sum of one of them exceeds `15 * 128 * 65536`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_row_u4(w: &[u8], x: &ShadowVector) -> f64 {
    let (runs, last) = w.as_chunks::<BYTES>().0.as_chunks::<2>();
    let (high, last_high) = x.high.as_chunks::<{ screen::RUN }>().0.as_chunks::<2>();
    let (low, last_low) = x.low.as_chunks::<{ screen::RUN }>().0.as_chunks::<2>();
    let mut sums = [_mm256_setzero_si256(); 2];
    for ((runs, high), low) in runs.iter().zip(high).zip(low) {
        add_runs(&mut sums, runs, [high, low]);
    }
    if let ([run], [high], [low]) = (last, last_high, last_low) {
        add_runs(&mut sums, &[*run], [&[*high], &[*low]]);
    }
    let both = _mm256_hadd_epi32(sums[0], sums[1]);
    let both = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
    let both = _mm_hadd_epi32(both, both);
    let (high, low) = (_mm_cvtsi128_si32(both), _mm_extract_epi32::<1>(both));
    (256 * i64::from(high) + i64::from(low)) as f64
}

/// Bytes of a run of values.
const BYTES: usize = screen::RUN / 2;

/// Adds one or two runs of a row times the two halves of the vector, of which a run adds at most `2 * 2 * 2 * 15 * 128 =
/// 15 360` to an i16 lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_runs<const N: usize>(
    sums: &mut [__m256i; 2],
    runs: &[[u8; BYTES]; N],
    x: [&[[i8; screen::RUN]; N]; 2],
) {
    const { assert!(N * 15_360 <= i16::MAX as usize, "sums of so many runs fit i16") };
    let four_bits = _mm256_set1_epi8(15);
    let mut acc = [_mm256_setzero_si256(); 2];
    for (i, run) in runs.iter().enumerate() {
        prefetch(run.as_ptr().wrapping_add(AHEAD));
        for at in [0, 32] {
            let w = load_u8(&run[at..]);
            let first = _mm256_and_si256(w, four_bits);
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(w), four_bits);
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(first, load_i8(&x[i][at..])));
                *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(second, load_i8(&x[i][at + BYTES..])));
            }
        }
    }
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
    }
}
