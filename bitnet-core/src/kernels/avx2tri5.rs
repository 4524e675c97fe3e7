//! AVX2 with weights packed five to a byte: small tables say what the digits of a byte are.
//!
//! A byte is `27 u + r`. Of `u`, 0 to 8, a table of 16 entries holds the two upper digits; of `r`, 0 to 26, two such tables
//! hold the three lower ones. Four digits are put where a byte of I2_S has its codes and are multiplied as those are.

use std::arch::x86_64::*;

use super::avx2::{
    AHEAD, PICKS_AHEAD, dot_block, load_i8, load_u8, prefetch, reduce_four, reduce_i32, store_four,
};
use super::scalar;
use crate::quant::act::ActScale;
use crate::quant::i2s::BLOCK_BYTES;
use crate::quant::tri5::{CHUNK, CHUNK_BYTES, Tri5, row_bytes};
use crate::trace::trace_timing;

#[trace_timing(avx2_gemv_tri5)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemv_tri5(y: &mut [f32], w: Tri5<'_>, q: &[i8], a: ActScale, scale: f32) {
    let q = Activations::new(q);
    for (y, rows) in y.chunks_mut(4).zip(w.bytes().chunks(4 * w.row_bytes())) {
        let mut sums = [_mm256_setzero_si256(); 4];
        for (sum, row) in sums.iter_mut().zip(rows.chunks_exact(w.row_bytes())) {
            *sum = dot_row(row, row.as_ptr().wrapping_add(AHEAD), &q);
        }
        store_four(y, reduce_four(sums), a, scale);
    }
}

#[trace_timing(avx2_gemv_tri5_picked)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemv_tri5_picked(
    y: &mut [f32],
    w: Tri5<'_>,
    picked: &[u32],
    q: &[i8],
    a: ActScale,
    scale: f32,
) {
    let q = Activations::new(q);
    for (i, &r) in picked.iter().enumerate() {
        let later = picked.get(i + PICKS_AHEAD).copied().unwrap_or(r);
        let dot = reduce_i32(dot_row(w.row(r as usize), w.row(later as usize).as_ptr(), &q));
        y[r as usize] = scalar::rescale(dot - a.sum, a.s, scale);
    }
}

/// Activations in whole chunks, the last filled up with zeros.
pub(super) struct Activations<'a> {
    whole: &'a [[i8; CHUNK]],
    last: Option<Line>,
}

/// A chunk's activations from the start of a cache line on: a register as wide as a line then never loads from two.
#[repr(align(64))]
struct Line([i8; CHUNK]);

impl<'a> Activations<'a> {
    pub(super) fn new(q: &'a [i8]) -> Self {
        let (whole, rest) = q.as_chunks::<CHUNK>();
        let last = (!rest.is_empty()).then(|| {
            let mut last = Line([0; CHUNK]);
            last.0[..rest.len()].copy_from_slice(rest);
            last
        });
        Activations { whole, last }
    }

    /// The chunks that need no zeros.
    #[inline(always)]
    pub(super) fn whole(&self) -> &'a [[i8; CHUNK]] {
        self.whole
    }

    /// The chunk that does.
    #[inline(always)]
    pub(super) fn last(&self) -> Option<&[i8; CHUNK]> {
        self.last.as_ref().map(|line| &line.0)
    }
}

/// Chunks whose products fit i16 lanes: a chunk adds at most `2 * 5 * 2 * 2 * 128 = 5120` to each.
const I16_CHUNKS: usize = 6;

/// `sum(code * q)` of a packed row, in parts, asking for as many bytes from `ahead` on the way.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_row(row: &[u8], ahead: *const u8, q: &Activations<'_>) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let tables = Tables::new();
    let mut sum = _mm256_setzero_si256();
    let (chunks, _) = row.as_chunks::<CHUNK_BYTES>();
    for (run, (chunks, q)) in chunks.chunks(I16_CHUNKS).zip(q.whole().chunks(I16_CHUNKS)).enumerate() {
        let mut acc = _mm256_setzero_si256();
        for (i, (chunk, q)) in chunks.iter().zip(q).enumerate() {
            prefetch(ahead.wrapping_add((run * I16_CHUNKS + i) * CHUNK_BYTES));
            acc = _mm256_add_epi16(acc, dot_chunk(chunk, q, &tables));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(acc, ones));
    }
    if let (Some(chunk), Some(q)) = (chunks.get(q.whole().len()), q.last()) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(dot_chunk(chunk, q, &tables), ones));
    }
    sum
}

/// Products of one chunk, in i16 lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_chunk(chunk: &[u8; CHUNK_BYTES], q: &[i8; CHUNK], tables: &Tables) -> __m256i {
    let mut acc = _mm256_setzero_si256();
    for half in [0, 32] {
        let q = |digit: usize| &q[CHUNK_BYTES * digit + half..];
        let (codes, last) = split(load_u8(&chunk[half..]), tables);
        acc = _mm256_add_epi16(
            acc,
            dot_block(codes, [load_i8(q(0)), load_i8(q(1)), load_i8(q(2)), load_i8(q(3))]),
        );
        acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(last, load_i8(q(4))));
    }
    acc
}

/// What digits numbers have, each table twice since a shuffle stays within half a register.
struct Tables {
    /// Digits 0, 1 and 2 of numbers 0 to 15, and of 16 to 26.
    lower: [__m256i; 2],
    /// Digits 3 and 4, of numbers 0 to 8 that stand for 27 times themselves.
    upper: [__m256i; 2],
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new() -> Tables {
        const LOWER: [[u8; 16]; 2] = {
            let mut tables = [[0; 16]; 2];
            let mut n = 0;
            while n < 27 {
                tables[n / 16][n % 16] = (64 * (n % 3) + 16 * (n / 3 % 3) + 4 * (n / 9)) as u8;
                n += 1;
            }
            tables
        };
        const UPPER: [[u8; 16]; 2] = {
            let mut tables = [[0; 16]; 2];
            let mut n = 0;
            while n < 9 {
                (tables[0][n], tables[1][n]) = (n as u8 % 3, n as u8 / 3);
                n += 1;
            }
            tables
        };
        let twice = |table: [u8; 16]| load_u8(bytemuck::cast_slice(&[table; 2]));
        Tables { lower: LOWER.map(twice), upper: UPPER.map(twice) }
    }
}

/// The first four digits of each byte as a byte of I2_S has its codes, digit 0 uppermost; and the fifth.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn split(bytes: __m256i, tables: &Tables) -> (__m256i, __m256i) {
    // Rounded up, and near enough to be the quotient of all that fits a byte.
    const OVER_27: i16 = 65536_u32.div_ceil(27) as i16;
    let quotient = |n| _mm256_mulhi_epu16(n, _mm256_set1_epi16(OVER_27));
    let even = quotient(_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)));
    let odd = quotient(_mm256_srli_epi16::<8>(bytes));
    let upper = _mm256_or_si256(even, _mm256_slli_epi16::<8>(odd));
    // 27 times 8 still fits a byte, so that none passes over to the next.
    let rest = _mm256_sub_epi8(bytes, _mm256_mullo_epi16(upper, _mm256_set1_epi16(27)));
    // A shuffle gives zero where bit 7 of the index is set: here from 16 on, there below 16.
    let first = _mm256_shuffle_epi8(tables.lower[0], _mm256_adds_epu8(rest, _mm256_set1_epi8(0x70)));
    let second = _mm256_shuffle_epi8(tables.lower[1], _mm256_sub_epi8(rest, _mm256_set1_epi8(16)));
    let codes = _mm256_or_si256(_mm256_or_si256(first, second), _mm256_shuffle_epi8(tables.upper[0], upper));
    (codes, _mm256_shuffle_epi8(tables.upper[1], upper))
}

/// Turns a row back to I2_S codes.
///
/// Two chunks are five blocks of I2_S. A digit of the 64 bytes of a chunk is two groups of 32 codes: groups 0 and 1 of a
/// block, or 2 and 3.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack_tri5(i2s: &mut [u8], row: &[u8]) {
    const TWO_CHUNKS: usize = 5 * BLOCK_BYTES;
    assert_eq!(row.len(), row_bytes(i2s.len() * 4), "a row of {} weights", i2s.len() * 4);
    let tables = Tables::new();
    for (i2s, row) in i2s.chunks_mut(TWO_CHUNKS).zip(row.chunks(2 * CHUNK_BYTES)) {
        let (chunks, _) = row.as_chunks::<CHUNK_BYTES>();
        let a = split_chunk(&chunks[0], &tables);
        let b = split_chunk(chunks.get(1).unwrap_or(&[0; CHUNK_BYTES]), &tables);
        let digits = [a[0], a[1], a[2], a[3], a[4], b[0], b[1], b[2], b[3], b[4]];
        let (blocks, _) = i2s.as_chunks_mut::<BLOCK_BYTES>();
        for (block, digits) in blocks.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [[c0, c1], [c2, c3]] = digits;
            let upper = _mm256_or_si256(_mm256_slli_epi16::<6>(*c0), _mm256_slli_epi16::<4>(*c1));
            let lower = _mm256_or_si256(_mm256_slli_epi16::<2>(*c2), *c3);
            *block = bytemuck::cast(_mm256_or_si256(upper, lower));
        }
    }
}

/// The five digits of the bytes of a chunk, 0 to 2, each in two registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn split_chunk(chunk: &[u8; CHUNK_BYTES], tables: &Tables) -> [[__m256i; 2]; 5] {
    let two_bits = _mm256_set1_epi8(3);
    let mut digits = [[two_bits; 2]; 5];
    for half in 0..2 {
        let (codes, last) = split(load_u8(&chunk[32 * half..]), tables);
        digits[0][half] = _mm256_and_si256(_mm256_srli_epi16::<6>(codes), two_bits);
        digits[1][half] = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), two_bits);
        digits[2][half] = _mm256_and_si256(_mm256_srli_epi16::<2>(codes), two_bits);
        digits[3][half] = _mm256_and_si256(codes, two_bits);
        digits[4][half] = last;
    }
    digits
}
