//! AVX-512 with VNNI: 64 bytes of packed weights at a time. Products of f16 values are in `avx512f16.rs`.
//!
//! The ternary products take codes 0..=2 as unsigned bytes and activations as signed ones, which is what
//! `vpdpbusd` multiplies; `sum(q)` is subtracted once at the end.
#![expect(unsafe_code, reason = "loads and stores through pointers taken from slices of checked length")]

use std::arch::x86_64::*;
use std::cell::Cell;

use super::avx512f16::{attn_mix, attn_scores, gemv_f16};
use super::avx512gemm::{PAIRS_TILE, TILE, gemm_i2s};
use super::{Kernels, Tiling, avx2, avx2tri5, elementwise};
use crate::ops::screen::ShadowVector;
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{self, Columns};
use crate::quant::i2s::{self, Ternary};
use crate::trace::trace_timing;

/// Whether this CPU has every feature this file is compiled for.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// The AVX-512 kernels.
pub(super) const KERNELS: Kernels = Kernels {
    isa: super::Isa::Avx512,
    name: "avx512",
    ternary: "avx512vnni",
    tri5: "tri5-avx2",
    tiling: Tiling::Even(TILE),
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
    gemm_i2s: gemm_i2s::<false>,
    preparation: None,
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
    ask: avx2::ask,
};

/// The same, multiplying pairs.
pub(super) const PAIRS: Kernels = Kernels {
    name: "avx512-pairs",
    tiling: Tiling::Even(PAIRS_TILE),
    pairs: true,
    gemm_i2s: gemm_i2s::<true>,
    ..KERNELS
};

elementwise!("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");

// ------------------------------------------------------------------------------------ ternary matrix x vector

/// How far ahead of a load the next bytes are asked for, into the second-level cache, which waits for more lines at
/// once than the first. The hardware stops at page boundaries and knows nothing of the next matrix.
pub(super) const AHEAD: usize = 8192;

// One row after the other, front to back. Several rows at a time would share the loads of the activations, but are as
// many streams: measured on Zen 4, one thread reads 9 GB/s of codes from four rows at a time, whatever is asked for
// ahead, and from one row 10 without asking and 19 with it. Only what comes after a row's last byte is done for four of
// them at once.

/// Rows whose lanes are added up together.
pub(super) const ROWS: usize = 4;

#[trace_timing(avx512_gemv_i2s)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn gemv_i2s(y: &mut [f32], w: Ternary<'_>, q: &[i8], a: ActScale, scale: f32) {
    let q = Twofold::new(q);
    for (y, rows) in y.chunks_mut(ROWS).zip(w.bytes().chunks(ROWS * w.row_bytes())) {
        let mut lanes = [_mm512_setzero_si512(); ROWS];
        for (lanes, row) in lanes.iter_mut().zip(rows.chunks_exact(w.row_bytes())) {
            *lanes = dot_row(row, row.as_ptr().wrapping_add(AHEAD), &q);
        }
        store(y, rescale(sums(lanes), a, scale));
    }
}

/// Rows ahead of a picked one whose bytes are asked for: no hardware foresees which comes next.
pub(super) const PICKS_AHEAD: usize = 8;

#[trace_timing(avx512_gemv_i2s_picked)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn gemv_i2s_picked(y: &mut [f32], w: Ternary<'_>, picked: &[u32], q: &[i8], a: ActScale, scale: f32) {
    let q = Twofold::new(q);
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

/// Activations in the order in which registers of codes meet them.
///
/// A register of 64 bytes holds two blocks of 128 weights: the lower half of each 2-bit group belongs to the first
/// block, the upper half to the second. So the activations of two blocks are kept as group 0 of both, group 1 of both,
/// and so on; zeros stand beside a last lone block.
struct Twofold(Lines<i8>);

/// Activations of two blocks.
const TWO_BLOCKS: usize = 2 * i2s::BLOCK;

thread_local! {
    /// Memory of a [`Twofold`], which a thread keeps, so that a step allocates nothing.
    static TWOFOLD: Cell<Lines<i8>> = Cell::default();
}

impl Twofold {
    fn new(q: &[i8]) -> Twofold {
        let mut lines = TWOFOLD.take();
        lines.resize(q.len().next_multiple_of(TWO_BLOCKS));
        for (out, q) in lines.as_chunks_mut::<TWO_BLOCKS>().0.iter_mut().zip(q.chunks(TWO_BLOCKS)) {
            let (first, second) = q.split_at(i2s::BLOCK);
            for (k, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
                out[..32].copy_from_slice(&first[32 * k..][..32]);
                match second {
                    [] => out[32..].fill(0),
                    _ => out[32..].copy_from_slice(&second[32 * k..][..32]),
                }
            }
        }
        Twofold(lines)
    }
}

impl Drop for Twofold {
    fn drop(&mut self) {
        TWOFOLD.set(std::mem::take(&mut self.0));
    }
}

/// `sum(code * q)` of a packed row with codes 0 to 3, in 16 lanes, asking for as many bytes from `ahead` on the way.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn dot_row(row: &[u8], ahead: *const u8, q: &Twofold) -> __m512i {
    let mut acc = [_mm512_setzero_si512(); 4];
    let (pairs, last) = row.as_chunks::<64>();
    let q = q.0.as_chunks::<TWO_BLOCKS>().0;
    for (i, (pair, q)) in pairs.iter().zip(q).enumerate() {
        prefetch(ahead.wrapping_add(64 * i));
        dot_codes(&mut acc, load_512(pair), q);
    }
    if let (Some(block), Some(q)) = (last.first_chunk::<{ i2s::BLOCK_BYTES }>(), q.get(pairs.len())) {
        // SAFETY: 32 readable bytes by type; this load accepts any alignment.
        let block = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
        dot_codes(&mut acc, _mm512_zextsi256_si512(block), q);
    }
    // Each sum is a multiple of the place its codes stood at, so that the shifts lose nothing.
    let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(acc[0]), _mm512_srai_epi32::<4>(acc[1]));
    let low = _mm512_add_epi32(_mm512_srai_epi32::<2>(acc[2]), acc[3]);
    _mm512_add_epi32(high, low)
}

/// The sum of the lanes of each of four rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn sums(rows: [__m512i; ROWS]) -> __m128i {
    let [a, b, c, d] =
        rows.map(|v| _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)));
    let v = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

/// The first values of a group of rows, all but for the last group: then a copy of unknown length, which is a call, is
/// not made for every four rows.
#[inline]
pub(super) fn store<T: Copy>(y: &mut [T], values: [T; ROWS]) {
    match y.first_chunk_mut() {
        Some(y) => *y = values,
        None => y.copy_from_slice(&values[..y.len()]),
    }
}

/// As [`scalar::rescale`], of four rows whose `dots` were taken with codes 0 to 2.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn rescale(dots: __m128i, a: ActScale, scale: f32) -> [f32; ROWS] {
    let dots = _mm_cvtepi32_ps(_mm_sub_epi32(dots, _mm_set1_epi32(a.sum)));
    bytemuck::cast(_mm_mul_ps(_mm_div_ps(dots, _mm_set1_ps(a.s)), _mm_set1_ps(scale)))
}

/// Asks for the cache line at an address that need not be one of ours, into the second-level cache.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn prefetch(address: *const u8) {
    ask_for::<_MM_HINT_T1>(address);
}

/// As [`prefetch`], into the first-level cache.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn prefetch_near(address: *const u8) {
    ask_for::<_MM_HINT_T0>(address);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn ask_for<const HINT: i32>(address: *const u8) {
    #[allow(unused_unsafe, reason = "newer compilers know that a prefetch is safe")]
    // SAFETY: a prefetch reads nothing the program can see and cannot fault, wherever it points.
    unsafe {
        _mm_prefetch::<HINT>(address.cast());
    }
}

/// Adds the products of one register of codes with its four groups of activations, each to a sum of its own.
///
/// The codes are multiplied where they stand, as 64, 16, 4 and 1 times themselves. A lane takes at most
/// `4 * 192 * 128` for each 256 weights, which fits i32 up to 5 million columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn dot_codes(acc: &mut [__m512i; 4], w: __m512i, q: &[i8; TWO_BLOCKS]) {
    let q: &[u8; TWO_BLOCKS] = bytemuck::cast_ref(q);
    for (k, mask) in [0b1100_0000_u8, 0b0011_0000, 0b0000_1100, 0b0000_0011].into_iter().enumerate() {
        let codes = _mm512_and_si512(w, _mm512_set1_epi8(mask.cast_signed()));
        acc[k] = _mm512_dpbusd_epi32(acc[k], codes, load_512(&q[64 * k..]));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn load_512(bytes: &[u8]) -> __m512i {
    let bytes: &[u8; 64] = bytes.first_chunk().expect("64 bytes are left");
    // SAFETY: 64 readable bytes by type; this load accepts any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

// ---------------------------------------------------------------------------------- ternary columns, some of them

/// Columns of a group: what passes between loading the sums of a line and storing them.
const GROUP: usize = 16;

#[trace_timing(avx512_sum_columns)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
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
            let mut acc = [[_mm512_setzero_si512(); 4]; 4];
            for ([a, b, c, d], &q) in group.columns.as_chunks::<4>().0.iter().zip(&group.q) {
                let lines = [&a[line], &b[line], &c[line], &d[line]];
                sum_quad(&mut acc, lines, _mm512_set1_epi32(q));
            }
            let (sums, _) = sums.as_chunks_mut::<16>();
            for (acc, sums) in acc.iter().zip(sums.as_chunks_mut::<4>().0) {
                add_to(&mut sums[0], acc[0]);
                add_to(&mut sums[1], _mm512_srai_epi32::<2>(acc[1]));
                add_to(&mut sums[2], _mm512_srai_epi32::<4>(acc[2]));
                add_to(&mut sums[3], _mm512_srai_epi32::<6>(acc[3]));
            }
        }
    }
}

/// Adds the products of one line of each of four columns, codes where they stand, as 1, 4, 16 and 64 times themselves.
///
/// See [`columns`] for what stands where.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn sum_quad(acc: &mut [[__m512i; 4]; 4], lines: [&[u8; columns::LINE]; 4], q: __m512i) {
    let [a, b, c, d] = [load_512(lines[0]), load_512(lines[1]), load_512(lines[2]), load_512(lines[3])];
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    let fours = [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ];
    for (acc, codes) in acc.iter_mut().zip(fours) {
        for (acc, mask) in acc.iter_mut().zip([0b0000_0011_u8, 0b0000_1100, 0b0011_0000, 0b1100_0000]) {
            let codes = _mm512_and_si512(codes, _mm512_set1_epi8(mask.cast_signed()));
            *acc = _mm512_dpbusd_epi32(*acc, codes, q);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_to(sums: &mut [i32; 16], more: __m512i) {
    // SAFETY: 16 readable values by type; this load accepts any alignment.
    let before = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
    let sum = _mm512_add_epi32(before, more);
    // SAFETY: 16 writable values by type; this store accepts any alignment.
    unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), sum) };
}

// ------------------------------------------------------------------------------------------------ screened head

#[trace_timing(avx512_dot_u4)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn dot_u4(y: &mut [f64], w: &[u8], x: &ShadowVector) {
    let row_bytes = x.values.len() / 2;
    for (y, rows) in y.chunks_mut(ROWS).zip(w.chunks(ROWS * row_bytes)) {
        let mut lanes = [[_mm512_setzero_si512(); ROWS]; 2];
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            [lanes[0][r], lanes[1][r]] = dot_row_u4(row, x);
        }
        let [high, low] = lanes.map(|lanes| _mm256_cvtepi32_pd(sums(lanes)));
        // Both are integers far below 2^53, and so is this.
        let dots: [f64; ROWS] = bytemuck::cast(_mm256_fmadd_pd(high, _mm256_set1_pd(256.0), low));
        store(y, dots);
    }
}

/// The products of one row with the upper and the lower halves of the vector, in lanes.
///
/// The upper four bits are multiplied where they stand, as 16 times themselves; a lane takes at most `4 * 240 * 128`
/// for each 128 weights, within i32 up to 2 million columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn dot_row_u4(w: &[u8], x: &ShadowVector) -> [__m512i; 2] {
    let four_bits = _mm512_set1_epi8(15);
    let (mut ones, mut sixteens) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
    let halves = x.high.as_chunks::<128>().0.iter().zip(x.low.as_chunks::<128>().0);
    for (w, (high, low)) in w.as_chunks::<64>().0.iter().zip(halves) {
        prefetch(w.as_ptr().wrapping_add(AHEAD));
        let w = load_512(w);
        let (first, second) = (_mm512_and_si512(w, four_bits), _mm512_andnot_si512(four_bits, w));
        for (i, x) in [high, low].into_iter().enumerate() {
            let x: &[u8; 128] = bytemuck::cast_ref(x);
            ones[i] = _mm512_dpbusd_epi32(ones[i], first, load_512(&x[..64]));
            sixteens[i] = _mm512_dpbusd_epi32(sixteens[i], second, load_512(&x[64..]));
        }
    }
    [0, 1].map(|i| _mm512_add_epi32(ones[i], _mm512_srai_epi32::<4>(sixteens[i])))
}

#[trace_timing(avx512_dot_u2)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn dot_u2(y: &mut [f64], w: &[u8], picked: &[u32], x: &[i8]) {
    let row = |r: u32| &w[r as usize * (x.len() / 4)..][..x.len() / 4];
    let x = Twofold::new(x);
    for (i, (y, picks)) in y.chunks_mut(ROWS).zip(picked.chunks(ROWS)).enumerate() {
        let mut lanes = [_mm512_setzero_si512(); ROWS];
        for (j, (lanes, &r)) in lanes.iter_mut().zip(picks).enumerate() {
            let later = picked.get(ROWS * i + j + PICKS_AHEAD).copied().unwrap_or(r);
            *lanes = dot_row(row(r), row(later).as_ptr(), &x);
        }
        let dots: [f64; ROWS] = bytemuck::cast(_mm256_cvtepi32_pd(sums(lanes)));
        store(y, dots);
    }
}
