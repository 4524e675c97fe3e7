//! AVX-512 with VNNI: a ternary matrix times many tokens. Two ways, which `avx512weigh.rs` chooses from.
//!
//! **Plainly**, a multiplication is 64 products: the way of a core that starts two multiplications of 64 bytes a cycle
//! and nothing beside them, as Intel's do.
//!
//! **In pairs** (see `paired.rs`), a multiplication and two additions are 128 products: the way of a core that adds
//! beside a multiplication. Zen 4 starts two operations of 64 bytes a cycle, one of them a multiplication: 64 products
//! plainly, 85 of pairs alone. Eleven pairs and ten plain groups to a block take 21 multiplications and 22 additions for
//! 32 groups: 95 a cycle.
#![expect(unsafe_code, reason = "loads and stores through pointers taken from slices of checked length")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::ActTiles;
use super::avx512::{gemv_i2s, load_512, prefetch, prefetch_near};
use super::avx512quotient::quotients;
use super::paired::{GROUP, GROUPS, Peak, STEP};
use super::tiles::Tile;
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::i2s::{self, Ternary};
use crate::trace::trace_timing;

/// Tokens of a tile: 24 accumulators, and the rest for weights and activations.
pub(super) const TILE: usize = 12;
/// Tokens of a tile of pairs: 20 accumulators, and the rest for weights, activations and the sums of both.
pub(super) const PAIRS_TILE: usize = 10;
/// Rows of a panel: two registers of 16 i32 sums.
pub(super) const PANEL: usize = 32;
/// How far ahead of a load a panel's next bytes are asked for.
const AHEAD: usize = 1024;
/// One group of each row of a panel.
pub(super) type Codes = [u8; GROUP * PANEL];

#[trace_timing(avx512_gemm_i2s, pairs = usize::from(PAIRS))]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn gemm_i2s<const PAIRS: bool>(
    y: &mut [&mut [f32]],
    w: Ternary<'_>,
    x: &ActTiles<'_>,
    scale: f32,
    panel: &mut Lines<u8>,
) {
    match y {
        [y] => vector(y, w, x, scale),
        y => gemm::<PAIRS, 1>(y, packed(w), x, scale, panel, |run, rows, b| unpack_block(run, w, rows, b)),
    }
}

/// A single token, which is never paired.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn vector(y: &mut [f32], w: Ternary<'_>, x: &ActTiles<'_>, scale: f32) {
    let (q, a) = x.single(0);
    gemv_i2s(y, w, q, a, scale);
}

/// A packed matrix, whatever its packing.
pub(super) struct Packed<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_bytes: usize,
    pub(super) bytes: &'a [u8],
}

fn packed(w: Ternary<'_>) -> Packed<'_> {
    Packed { rows: w.rows(), cols: w.cols(), row_bytes: w.row_bytes(), bytes: w.bytes() }
}

/// A panel of rows is unpacked once so that a register holds a group of each of 16 rows; then every tile of tokens
/// runs through it with a broadcast activation, and no sum is ever horizontal.
///
/// - `unpack`: writes run `i`, of `BLOCKS` blocks or what is left of them, of up to 32 rows
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn gemm<const PAIRS: bool, const BLOCKS: usize>(
    y: &mut [&mut [f32]],
    w: Packed<'_>,
    x: &ActTiles<'_>,
    scale: f32,
    panel: &mut Lines<u8>,
    unpack: impl Fn(&mut [Codes], Range<usize>, usize),
) {
    let tile_size = if PAIRS { PAIRS_TILE } else { TILE };
    panel.resize(PANEL * w.cols);
    for first in (0..w.rows).step_by(PANEL) {
        let rows = first..w.rows.min(first + PANEL);
        let (codes, _) = panel.as_chunks_mut();
        let mut share = [_mm512_setzero_si512(); 2];
        for (i, run) in codes.chunks_mut(BLOCKS * GROUPS).enumerate() {
            unpack(run, rows.clone(), i);
            if PAIRS {
                for block in run.chunks_exact(GROUPS) {
                    add_share_of_pairs(&mut share, block);
                }
            }
        }
        // The next panel's bytes are asked for a little with each tile: there is time, and no hardware sees them come.
        let next = w.bytes[first * w.row_bytes..].get(PANEL * w.row_bytes..).unwrap_or(&[]);
        let next = &next[..next.len().min(PANEL * w.row_bytes)];
        let mut ahead = next.chunks(next.len().div_ceil(x.n().div_ceil(tile_size)).max(1));
        for tile in x.tiles() {
            for line in ahead.next().unwrap_or(&[]).chunks(64) {
                prefetch(line.as_ptr());
            }
            let y = Rows { y: &mut y[tile.first..][..tile.scales.len()], first, n: rows.len(), share };
            const { assert!(TILE == 12 && PAIRS_TILE <= TILE, "as many as there are cases below") };
            match tile.scales.len() {
                12 => gemm_tile::<PAIRS, 12>(y, codes, tile, scale),
                11 => gemm_tile::<PAIRS, 11>(y, codes, tile, scale),
                10 => gemm_tile::<PAIRS, 10>(y, codes, tile, scale),
                9 => gemm_tile::<PAIRS, 9>(y, codes, tile, scale),
                8 => gemm_tile::<PAIRS, 8>(y, codes, tile, scale),
                7 => gemm_tile::<PAIRS, 7>(y, codes, tile, scale),
                6 => gemm_tile::<PAIRS, 6>(y, codes, tile, scale),
                5 => gemm_tile::<PAIRS, 5>(y, codes, tile, scale),
                4 => gemm_tile::<PAIRS, 4>(y, codes, tile, scale),
                3 => gemm_tile::<PAIRS, 3>(y, codes, tile, scale),
                2 => gemm_tile::<PAIRS, 2>(y, codes, tile, scale),
                n => unreachable!("a tile of {n} tokens"),
            }
        }
    }
}

/// Where a panel's results for a tile go: rows `first..first + n` of each token.
struct Rows<'a, 'b> {
    y: &'a mut [&'b mut [f32]],
    first: usize,
    n: usize,
    /// What the sums of each row are too large by.
    share: [__m512i; 2],
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn gemm_tile<const PAIRS: bool, const T: usize>(
    mut y: Rows<'_, '_>,
    panel: &[Codes],
    tile: Tile<'_>,
    scale: f32,
) {
    let dots = products::<PAIRS, T>(panel, tile.q, y.share);
    let mut peaks = tile.peaks;
    for t in 0..T {
        let n = peaks.iter().take_while(|peak| peak.token as usize == t).count();
        let sums = add_peaks(dots[t], panel, peaks.split_off(..n).expect("as many were counted"));
        store(&mut y, t, sums, tile.scales[t], scale);
    }
}

/// The sums of a panel's products with `T` tokens, less the rows' share.
///
/// - `q`: a tile's values
#[inline(never)] // so that sums stay in registers to the end, which these loops take all of
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn products<const PAIRS: bool, const T: usize>(
    panel: &[Codes],
    q: &[i8],
    share: [__m512i; 2],
) -> [[__m512i; 2]; T] {
    let mut acc = [[_mm512_setzero_si512(); 2]; T];
    let (groups, _) = q.as_chunks::<GROUP>();
    if PAIRS {
        for (panel, q) in panel.chunks_exact(GROUPS).zip(groups.chunks_exact(GROUPS * T)) {
            for (codes, q) in panel.chunks(STEP).zip(q.chunks(STEP * T)) {
                const { assert!(GROUPS % STEP == 2, "what is left at the end of a block is a pair") };
                add_pair(&mut acc, [&codes[0], &codes[1]], &q[..2 * T]);
                if codes.len() == STEP {
                    add_plain(&mut acc, &codes[2], &q[2 * T..3 * T]);
                }
            }
        }
    } else {
        for (codes, q) in panel.iter().zip(groups.chunks_exact(T)) {
            add_plain(&mut acc, codes, q);
        }
    }
    let mut sums = acc;
    for t in 0..T {
        for h in 0..2 {
            sums[t][h] = _mm512_sub_epi32(acc[t][h], share[h]);
        }
    }
    sums
}

/// Adds the products of a group of each row and each token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_plain<const T: usize>(acc: &mut [[__m512i; 2]; T], codes: &Codes, q: &[[i8; GROUP]]) {
    ask_ahead(codes);
    let codes = halves(codes);
    for t in 0..T {
        let q = broadcast(q[t]);
        acc[t][0] = _mm512_dpbusd_epi32(acc[t][0], codes[0], q);
        acc[t][1] = _mm512_dpbusd_epi32(acc[t][1], codes[1], q);
    }
}

/// As [`add_plain`] of two groups, in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_pair<const T: usize>(acc: &mut [[__m512i; 2]; T], codes: [&Codes; 2], q: &[[i8; GROUP]]) {
    ask_ahead(codes[0]);
    ask_ahead(codes[1]);
    let codes = [halves(codes[0]), halves(codes[1])];
    for t in 0..T {
        let (first, second) = (broadcast(q[t]), broadcast(q[T + t]));
        for h in 0..2 {
            let (u, s) = (_mm512_add_epi8(first, codes[1][h]), _mm512_add_epi8(second, codes[0][h]));
            acc[t][h] = _mm512_dpbusd_epi32(acc[t][h], u, s);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn ask_ahead(codes: &Codes) {
    for line in codes.chunks(64) {
        prefetch_near(line.as_ptr().wrapping_add(AHEAD));
    }
}

/// The results of token `t`, less what the sums are too large by.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn store(y: &mut Rows<'_, '_>, t: usize, sums: [__m512i; 2], a: ActScale, scale: f32) {
    for (h, sum) in sums.into_iter().enumerate() {
        let n = y.n.saturating_sub(16 * h).min(16);
        let dot = _mm512_sub_epi32(sum, _mm512_set1_epi32(a.sum));
        let out = _mm512_mul_ps(quotients(_mm512_cvtepi32_ps(dot), a.s), _mm512_set1_ps(scale));
        if n > 0 {
            let y = &mut y.y[t][y.first + 16 * h..][..n];
            // SAFETY: the mask writes the first `n` values, the length of `y`.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), 0xffff >> (16 - n), out) };
        }
    }
}

/// What a token's values left out.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_peaks(mut sums: [__m512i; 2], panel: &[Codes], peaks: &[Peak]) -> [__m512i; 2] {
    for peak in peaks {
        let (codes, units) = (halves(&panel[peak.group as usize]), broadcast(peak.units));
        for h in 0..2 {
            sums[h] = _mm512_dpbusd_epi32(sums[h], codes[h], units);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn halves(codes: &Codes) -> [__m512i; 2] {
    [load_512(&codes[..64]), load_512(&codes[64..])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn broadcast(q: [i8; GROUP]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(q.map(i8::cast_unsigned)))
}

/// Unpacks block `b` of up to 32 rows, a group of each together; rows past the last are copies of it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn unpack_block(panel: &mut [Codes], w: Ternary<'_>, rows: Range<usize>, b: usize) {
    let last = rows.end - 1;
    let two_bits = _mm512_set1_epi8(3);
    for h in 0..2 {
        // Row r and row r + 8 of this half as the halves of one register.
        let mut halves = [_mm512_setzero_si512(); 8];
        for (r, pair) in halves.iter_mut().enumerate() {
            let row = |r: usize| &w.row((rows.start + 16 * h + r).min(last))[i2s::BLOCK_BYTES * b..];
            *pair = load_two(row(r), row(r + 8));
        }
        // Register d holds, for each of 16 rows, bytes 4d..4d+4 of the block: groups d, 8 + d, 16 + d and 24 + d.
        for (d, mut packed) in transpose_8x8(halves).into_iter().enumerate() {
            for g in [24 + d, 16 + d, 8 + d, d] {
                store_512(&mut panel[g].as_chunks_mut().0[h], _mm512_and_si512(packed, two_bits));
                packed = _mm512_srli_epi16::<2>(packed);
            }
        }
    }
}

/// Adds a block's part of each row's share: `w1 w2 + 128 w1` of pairs, that is `(c2 + 127) (c1 - 1)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn add_share_of_pairs(share: &mut [__m512i; 2], block: &[Codes]) {
    for pair in block.chunks(STEP) {
        for h in 0..2 {
            let s = _mm512_sub_epi8(halves(&pair[0])[h], _mm512_set1_epi8(1));
            let u = _mm512_add_epi8(halves(&pair[1])[h], _mm512_set1_epi8(127));
            share[h] = _mm512_dpbusd_epi32(share[h], u, s);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn store_512(bytes: &mut [u8; 64], v: __m512i) {
    // SAFETY: 64 writable bytes by type; this store accepts any alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) };
}

/// Two runs of 32 bytes as the halves of one register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn load_two(low: &[u8], high: &[u8]) -> __m512i {
    let low: &[u8; 32] = low.first_chunk().expect("32 bytes are left");
    let high: &[u8; 32] = high.first_chunk().expect("32 bytes are left");
    // SAFETY: 32 readable bytes by type; this load accepts any alignment.
    let low = unsafe { _mm256_loadu_si256(low.as_ptr().cast()) };
    // SAFETY: as above.
    let high = unsafe { _mm256_loadu_si256(high.as_ptr().cast()) };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Transposes the 8 x 8 matrix of i32 in the lower halves, and the one in the upper halves.
///
/// Result `d` holds value `d` of rows 0..8 in its lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn transpose_8x8(r: [__m512i; 8]) -> [__m512i; 8] {
    // Pairs of rows: [a0 b0 a1 b1 | ...] and [a2 b2 a3 b3 | ...] in each 128-bit lane.
    let lo = |i: usize| _mm512_unpacklo_epi32(r[i], r[i + 1]);
    let hi = |i: usize| _mm512_unpackhi_epi32(r[i], r[i + 1]);
    let (ab, cd, ef, gh) = ([lo(0), hi(0)], [lo(2), hi(2)], [lo(4), hi(4)], [lo(6), hi(6)]);
    // Four rows: value k of a, b, c, d in lane 0, value k + 4 in lane 1 (and so on in the upper half).
    let four = |x: [__m512i; 2], y: [__m512i; 2]| {
        [
            _mm512_unpacklo_epi64(x[0], y[0]),
            _mm512_unpackhi_epi64(x[0], y[0]),
            _mm512_unpacklo_epi64(x[1], y[1]),
            _mm512_unpackhi_epi64(x[1], y[1]),
        ]
    };
    let (abcd, efgh) = (four(ab, cd), four(ef, gh));
    // Lanes 0 and 2 of both for values 0..4, lanes 1 and 3 for values 4..8.
    let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    let mut out = [_mm512_setzero_si512(); 8];
    for d in 0..4 {
        out[d] = _mm512_permutex2var_epi64(abcd[d], even, efgh[d]);
        out[d + 4] = _mm512_permutex2var_epi64(abcd[d], odd, efgh[d]);
    }
    out
}
