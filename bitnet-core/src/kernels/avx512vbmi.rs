//! AVX-512 with VBMI: a table in two registers says what the digits of 64 bytes are, five weights to a byte.
//!
//! Everything else is as in `avx512.rs`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2tri5::Activations;
use super::avx512::{self, AHEAD, PICKS_AHEAD, ROWS, load_512, prefetch, rescale, store, sums};
use super::avx512gemm::{Codes, Packed, gemm, load_two, store_512, transpose_8x8};
use super::paired::GROUP;
use super::table::GemmTri5;
use super::{ActTiles, Kernels};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::i2s::BLOCK_BYTES;
use crate::quant::tri5::{CHUNK, CHUNK_BYTES, Tri5, row_bytes};
use crate::trace::trace_timing;

/// Whether this CPU has every feature this file is compiled for.
pub(super) fn supported() -> bool {
    avx512::supported() && is_x86_feature_detected!("avx512vbmi")
}

/// The AVX-512 kernels where there is VBMI.
pub(super) const KERNELS: Kernels = with_vbmi("avx512vbmi", avx512::KERNELS);

/// The same, multiplying pairs.
pub(super) const PAIRS: Kernels = with_vbmi("avx512vbmi-pairs", avx512::PAIRS);

const fn with_vbmi(name: &'static str, kernels: Kernels) -> Kernels {
    let gemm_tri5: GemmTri5 = if kernels.pairs { gemm_tri5::<true> } else { gemm_tri5::<false> };
    Kernels {
        name,
        tri5: "tri5-avx512vbmi",
        unpack_tri5,
        gemv_tri5,
        gemv_tri5_picked,
        gemm_tri5: Some(gemm_tri5),
        ..kernels
    }
}

#[trace_timing(avx512vbmi_gemv_tri5)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn gemv_tri5(y: &mut [f32], w: Tri5<'_>, q: &[i8], a: ActScale, scale: f32) {
    let q = Activations::new(q);
    for (y, rows) in y.chunks_mut(ROWS).zip(w.bytes().chunks(ROWS * w.row_bytes())) {
        let mut lanes = [_mm512_setzero_si512(); ROWS];
        for (lanes, row) in lanes.iter_mut().zip(rows.chunks_exact(w.row_bytes())) {
            *lanes = dot_row(row, row.as_ptr().wrapping_add(AHEAD), &q);
        }
        store(y, rescale(sums(lanes), a, scale));
    }
}

#[trace_timing(avx512vbmi_gemv_tri5_picked)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn gemv_tri5_picked(y: &mut [f32], w: Tri5<'_>, picked: &[u32], q: &[i8], a: ActScale, scale: f32) {
    let q = Activations::new(q);
    for (i, picks) in picked.chunks(ROWS).enumerate() {
        let mut lanes = [_mm512_setzero_si512(); ROWS];
        for (j, (lanes, &r)) in lanes.iter_mut().zip(picks).enumerate() {
            let later = picked.get(ROWS * i + j + PICKS_AHEAD).copied().unwrap_or(r);
            *lanes = dot_row(w.row(r as usize), w.row(later as usize).as_ptr(), &q);
        }
        for (&r, value) in picks.iter().zip(rescale(sums(lanes), a, scale)) {
            y[r as usize] = value;
        }
    }
}

/// `sum(code * q)` of a packed row, in 16 lanes, asking for as many bytes from `ahead` on the way.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn dot_row(row: &[u8], ahead: *const u8, q: &Activations<'_>) -> __m512i {
    /// Times 81 it is 1, modulo 2^32: a multiple of 81 times this is divided by 81.
    const INVERSE_OF_81: u32 = 2_014_922_929;
    let digits = [table(0), table(64)];
    let mut acc = [_mm512_setzero_si512(); 5];
    let (chunks, _) = row.as_chunks::<CHUNK_BYTES>();
    for (i, (chunk, q)) in chunks.iter().zip(q.whole()).enumerate() {
        prefetch(ahead.wrapping_add(CHUNK_BYTES * i));
        dot_chunk(&mut acc, chunk, q, digits);
    }
    if let (Some(chunk), Some(q)) = (chunks.get(q.whole().len()), q.last()) {
        dot_chunk(&mut acc, chunk, q, digits);
    }
    // Each sum is a multiple of the place its codes stood at, so that nothing is lost.
    let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(acc[0]), _mm512_srai_epi32::<2>(acc[1]));
    let low = _mm512_add_epi32(_mm512_srai_epi32::<4>(acc[2]), acc[3]);
    let last = _mm512_mullo_epi32(acc[4], _mm512_set1_epi32(INVERSE_OF_81.cast_signed()));
    _mm512_add_epi32(_mm512_add_epi32(low, high), last)
}

/// Adds the products of one chunk, each digit's to a sum of its own.
///
/// Codes are multiplied where they stand: the digits of a rest below 81 as 64, 4, 16 and 1 times themselves, the last
/// digit as 81 times itself. A lane takes at most `4 * 162 * 128` for each 320 weights, which fits i32 up to 8 million
/// columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn dot_chunk(acc: &mut [__m512i; 5], chunk: &[u8; CHUNK_BYTES], q: &[i8; CHUNK], digits: [__m512i; 2]) {
    let q: &[u8] = bytemuck::cast_slice(q);
    let (codes, last) = split(chunk, digits);
    for (k, mask) in [0b1100_0000_u8, 0b0000_1100, 0b0011_0000, 0b0000_0011].into_iter().enumerate() {
        let codes = _mm512_and_si512(codes, _mm512_set1_epi8(mask.cast_signed()));
        acc[k] = _mm512_dpbusd_epi32(acc[k], codes, load_512(&q[CHUNK_BYTES * k..]));
    }
    acc[4] = _mm512_dpbusd_epi32(acc[4], last, load_512(&q[CHUNK_BYTES * 4..]));
}

/// The first four digits of each byte in two bits each, from the uppermost down digits 0, 2, 1 and 3; and 81 times the
/// fifth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn split(chunk: &[u8; CHUNK_BYTES], digits: [__m512i; 2]) -> (__m512i, __m512i) {
    split_digits(load_512(chunk), digits)
}

/// As [`split`], of any bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn split_digits(bytes: __m512i, digits: [__m512i; 2]) -> (__m512i, __m512i) {
    let less = _mm512_sub_epi8(bytes, _mm512_set1_epi8(81));
    let least = _mm512_sub_epi8(bytes, _mm512_set1_epi8(162_u8.cast_signed()));
    let rest = _mm512_min_epu8(_mm512_min_epu8(bytes, less), least);
    (_mm512_permutex2var_epi8(digits[0], rest, digits[1]), _mm512_sub_epi8(bytes, rest))
}

/// For each number from `first` on, its four digits in base 3, as [`split`] has them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn table(first: u8) -> __m512i {
    const DIGITS: [u8; 128] = {
        let mut digits = [0; 128];
        let mut n = 0;
        while n < 81 {
            digits[n] = (n % 3 * 64 + n / 3 % 3 * 4 + n / 9 % 3 * 16 + n / 27) as u8;
            n += 1;
        }
        digits
    };
    load_512(&DIGITS[first as usize..])
}

/// Turns a row back to I2_S codes.
///
/// Two chunks are five blocks of I2_S, and each of their ten digits two groups of 32 codes: groups 0 and 1 of a block, or
/// 2 and 3. Two digits are put into bits 4 and 0, which is where [`split`] has digits 0 and 1, and 2 and 3; then the
/// groups in the lower halves belong two bits above those in the upper.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn unpack_tri5(i2s: &mut [u8], row: &[u8]) {
    const PAIR: usize = 5 * BLOCK_BYTES;
    assert_eq!(row.len(), row_bytes(i2s.len() * 4), "a row of {} weights", i2s.len() * 4);
    let digits = [table(0), table(64)];
    let (both, upper, lower) =
        (_mm512_set1_epi8(0b0011_0011), _mm512_set1_epi8(0b0011_0000), _mm512_set1_epi8(0b0000_0011));
    for (i2s, row) in i2s.chunks_mut(PAIR).zip(row.chunks(2 * CHUNK_BYTES)) {
        let (chunks, _) = row.as_chunks::<CHUNK_BYTES>();
        let (a, a_last) = split(&chunks[0], digits);
        let (b, b_last) = split(chunks.get(1).unwrap_or(&[0; CHUNK_BYTES]), digits);
        // 81 and 162 have the digit itself in the two uppermost bits.
        let pairs = [
            _mm512_and_si512(_mm512_srli_epi16::<2>(a), both),
            _mm512_and_si512(a, both),
            _mm512_or_si512(
                _mm512_and_si512(_mm512_srli_epi16::<2>(a_last), upper),
                _mm512_and_si512(_mm512_srli_epi16::<6>(b), lower),
            ),
            _mm512_or_si512(
                _mm512_and_si512(_mm512_slli_epi16::<2>(b), upper),
                _mm512_and_si512(_mm512_srli_epi16::<4>(b), lower),
            ),
            _mm512_or_si512(
                _mm512_and_si512(_mm512_slli_epi16::<4>(b), upper),
                _mm512_and_si512(_mm512_srli_epi16::<6>(b_last), lower),
            ),
        ];
        for (block, pair) in i2s.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().zip(pairs) {
            let first = _mm256_slli_epi16::<2>(_mm512_castsi512_si256(pair));
            *block = bytemuck::cast(_mm256_or_si256(first, _mm512_extracti64x4_epi64::<1>(pair)));
        }
    }
}

// ------------------------------------------------------------------------------------ ternary matrix x matrix

/// Blocks after which chunks and blocks begin anew: two chunks.
const RUN_BLOCKS: usize = 5;

#[trace_timing(avx512vbmi_gemm_tri5, pairs = usize::from(PAIRS))]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn gemm_tri5<const PAIRS: bool>(
    y: &mut [&mut [f32]],
    w: Tri5<'_>,
    x: &ActTiles<'_>,
    scale: f32,
    panel: &mut Lines<u8>,
) {
    let unpack = |run: &mut [Codes], rows, i| unpack_run(run, w, rows, i);
    match y {
        [y] => vector(y, w, x, scale),
        y => gemm::<PAIRS, RUN_BLOCKS>(y, packed(w), x, scale, panel, unpack),
    }
}

/// A single token, which is never paired.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn vector(y: &mut [f32], w: Tri5<'_>, x: &ActTiles<'_>, scale: f32) {
    let (q, a) = x.single(0);
    gemv_tri5(y, w, q, a, scale);
}

fn packed(w: Tri5<'_>) -> Packed<'_> {
    Packed { rows: w.rows(), cols: w.cols(), row_bytes: w.row_bytes(), bytes: w.bytes() }
}

/// Unpacks two chunks of up to 32 rows, the `i`-th two, to groups of codes; rows past the last are copies of it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn unpack_run(run: &mut [Codes], w: Tri5<'_>, rows: Range<usize>, i: usize) {
    for (groups, at) in run.chunks_mut(CHUNK / GROUP).zip((2 * CHUNK_BYTES * i..).step_by(CHUNK_BYTES)) {
        for h in 0..2 {
            let row = |r: usize| &w.row((rows.start + 16 * h + r).min(rows.end - 1))[at..];
            for part in 0..2 {
                // Row r and row r + 8 of this half as the halves of one register.
                let mut halves = [_mm512_setzero_si512(); 8];
                for (r, pair) in halves.iter_mut().enumerate() {
                    *pair = load_two(&row(r)[32 * part..], &row(r + 8)[32 * part..]);
                }
                unpack_half(groups, h, 8 * part, transpose_8x8(halves));
            }
        }
    }
}

/// Eight times four bytes of a chunk, from the `first` on, each of 16 rows: a group of each of their five digits.
///
/// - `h`: which half of a panel's rows; `groups`: those of the chunk, less those past the end of the row
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn unpack_half(groups: &mut [Codes], h: usize, first: usize, fours: [__m512i; 8]) {
    /// Groups of a chunk that a digit has.
    const DIGIT: usize = CHUNK_BYTES / GROUP;
    let (digits, two_bits) = ([table(0), table(64)], _mm512_set1_epi8(3));
    for (d, four) in fours.into_iter().enumerate() {
        let (codes, last) = split_digits(four, digits);
        let shifted = [
            _mm512_srli_epi16::<6>(codes),
            _mm512_srli_epi16::<2>(codes),
            _mm512_srli_epi16::<4>(codes),
            codes,
            _mm512_srli_epi16::<6>(last), // of 81 and 162, the two uppermost bits are the digit
        ];
        for (k, codes) in shifted.into_iter().enumerate() {
            if let Some(group) = groups.get_mut(DIGIT * k + first + d) {
                store_512(&mut group.as_chunks_mut().0[h], _mm512_and_si512(codes, two_bits));
            }
        }
    }
}
