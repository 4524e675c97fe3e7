//! AVX-512 with VBMI: a table in two registers says what the digits of 64 bytes are, five weights to a byte.
//!
//! Everything else is as in `avx512.rs`.

use std::arch::x86_64::*;

use super::Kernels;
use super::avx512::{self, AHEAD, PICKS_AHEAD, ROWS, load_512, prefetch, rescale, sums};
use crate::quant::act::ActScale;
use crate::quant::tri5::{CHUNK, CHUNK_BYTES, Tri5};
use crate::trace::trace_timing;

/// Whether this CPU has every feature this file is compiled for.
pub(super) fn supported() -> bool {
    avx512::supported() && is_x86_feature_detected!("avx512vbmi")
}

/// The AVX-512 kernels where there is VBMI.
pub(super) const KERNELS: Kernels = Kernels { gemv_tri5, gemv_tri5_picked, ..avx512::KERNELS };

#[trace_timing(avx512vbmi_gemv_tri5)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn gemv_tri5(y: &mut [f32], w: Tri5<'_>, q: &[i8], a: ActScale, scale: f32) {
    let q = Activations::new(q);
    for (y, rows) in y.chunks_mut(ROWS).zip(w.bytes().chunks(ROWS * w.row_bytes())) {
        let mut lanes = [_mm512_setzero_si512(); ROWS];
        for (lanes, row) in lanes.iter_mut().zip(rows.chunks_exact(w.row_bytes())) {
            *lanes = dot_row(row, row.as_ptr().wrapping_add(AHEAD), &q);
        }
        y.copy_from_slice(&rescale(sums(lanes), a, scale)[..y.len()]);
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

/// Activations in whole chunks, the last filled up with zeros.
struct Activations<'a> {
    whole: &'a [[i8; CHUNK]],
    last: Option<Line>,
}

/// A chunk's activations from the start of a cache line on: a register as wide as a line then never loads from two.
#[repr(align(64))]
struct Line([i8; CHUNK]);

impl<'a> Activations<'a> {
    fn new(q: &'a [i8]) -> Self {
        let (whole, rest) = q.as_chunks::<CHUNK>();
        let last = (!rest.is_empty()).then(|| {
            let mut last = Line([0; CHUNK]);
            last.0[..rest.len()].copy_from_slice(rest);
            last
        });
        Activations { whole, last }
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
    for (i, (chunk, q)) in chunks.iter().zip(q.whole).enumerate() {
        prefetch(ahead.wrapping_add(CHUNK_BYTES * i));
        dot_chunk(&mut acc, chunk, q, digits);
    }
    if let (Some(chunk), Some(q)) = (chunks.get(q.whole.len()), &q.last) {
        dot_chunk(&mut acc, chunk, &q.0, digits);
    }
    // Each sum is a multiple of the place its codes stood at, so that nothing is lost.
    let low = _mm512_add_epi32(acc[0], _mm512_srai_epi32::<2>(acc[1]));
    let high = _mm512_add_epi32(_mm512_srai_epi32::<4>(acc[2]), _mm512_srai_epi32::<6>(acc[3]));
    let last = _mm512_mullo_epi32(acc[4], _mm512_set1_epi32(INVERSE_OF_81.cast_signed()));
    _mm512_add_epi32(_mm512_add_epi32(low, high), last)
}

/// Adds the products of one chunk, each digit's to a sum of its own.
///
/// Codes are multiplied where they stand: the digits of a rest below 81 as 1, 4, 16 and 64 times themselves, the last
/// digit as 81 times itself. A lane takes at most `4 * 162 * 128` for each 320 weights, which fits i32 up to 8 million
/// columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn dot_chunk(acc: &mut [__m512i; 5], chunk: &[u8; CHUNK_BYTES], q: &[i8; CHUNK], digits: [__m512i; 2]) {
    let q: &[u8] = bytemuck::cast_slice(q);
    let bytes = load_512(chunk);
    let less = _mm512_sub_epi8(bytes, _mm512_set1_epi8(81));
    let least = _mm512_sub_epi8(bytes, _mm512_set1_epi8(162_u8.cast_signed()));
    let rest = _mm512_min_epu8(_mm512_min_epu8(bytes, less), least);
    let codes = _mm512_permutex2var_epi8(digits[0], rest, digits[1]);
    for (k, mask) in [0b0000_0011_u8, 0b0000_1100, 0b0011_0000, 0b1100_0000].into_iter().enumerate() {
        let codes = _mm512_and_si512(codes, _mm512_set1_epi8(mask.cast_signed()));
        acc[k] = _mm512_dpbusd_epi32(acc[k], codes, load_512(&q[CHUNK_BYTES * k..]));
    }
    acc[4] = _mm512_dpbusd_epi32(acc[4], _mm512_sub_epi8(bytes, rest), load_512(&q[CHUNK_BYTES * 4..]));
}

/// For each number from `first` on, its four digits in base 3, two bits each, the lowest first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn table(first: u8) -> __m512i {
    const DIGITS: [u8; 128] = {
        let mut digits = [0; 128];
        let mut n = 0;
        while n < 81 {
            digits[n] = (n % 3 + n / 3 % 3 * 4 + n / 9 % 3 * 16 + n / 27 * 64) as u8;
            n += 1;
        }
        digits
    };
    load_512(&DIGITS[first as usize..])
}
