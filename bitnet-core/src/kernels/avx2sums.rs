//! AVX2: a ternary matrix times many tokens, with its sums looked up.
//!
//! Four ternary weights are one of 81, so four products and their sum are one of 81 sums of four activations. Where a
//! matrix has thousands of rows, all 81 are made in advance, and each row takes one from the table: a load and an
//! addition for what are four multiplications and four additions. A register has room for 16 sums in i16 lanes, those of
//! 16 tokens. A core that loads two registers a cycle takes 128 products a cycle from tables, where its two multipliers
//! take 64.
//!
//! **Order.** Tables must stay in the cache of the first level: those of [`STEP`] bytes of a row, 16 weights, for the
//! [`TILE`] tokens of a tile have 20 KiB. Every row takes its four sums from them and adds them to its own, which pass by
//! from the cache of the second level; then come the tables of the next 16 columns.
//!
//! **Places.** A byte has four weights as codes 0 to 2 in two bits each; its place in a table is the number that has the
//! same codes for digits in base 3. The places of a step are brought together for all rows of a piece, once for all
//! tiles and threads: what these kernels make of rows, as `prepared.rs` has it.
//!
//! **Range.** A lane has i16, and sums go on to i32 before they could leave that. When that is, the activations tell:
//! no sum exceeds the sum of their magnitudes so far.
//!
//! Tables cost as much for few rows or tokens as for many, so of those the products are taken plainly.
#![expect(unsafe_code, reason = "stores through pointers taken from arrays of known length")]

use std::arch::x86_64::*;

use super::avx2::{
    PANEL, TOGETHER, load_u8, prefetch, store_eight, store_tile, sum_tile, transpose_8x8, unpack_panel,
};
use super::prepared::{self, Preparation, Prepared};
use super::tiles::Tile;
use super::{ActTiles, Tiling};
use crate::pages::Lines;
use crate::quant::i2s::{self, Ternary};
use crate::trace::trace_timing;

/// Tokens of a tile: two registers of sums.
const TILE: usize = 32;
/// Tokens for which tables are worth making.
const LEAST_TOKENS: usize = 16;
/// Both.
pub(super) const TILING: Tiling = Tiling::Full { size: TILE, least: LEAST_TOKENS };
/// Sums in a table: of four activations times -1, 0 or 1.
const SUMS: usize = 81;
/// Bytes of a row whose tables are made at a time.
const STEP: usize = 4;
/// Steps of a block.
const STEPS: usize = i2s::BLOCK_BYTES / STEP;
/// From the places of a step to those of the next: an odd number of cache lines, so that the steps of a block begin in
/// different sets of a cache.
const STRIDE: usize = prepared::ROWS + 16;
/// Entries of a step's tables, and after them as many as a place of 7 bits could be too large by.
const ENTRIES: usize = STEP * SUMS + 128 - SUMS;

/// A sum of each token of a tile in i16 lanes, as [`widen`] orders them.
type Sums = [u8; 2 * TILE];
/// A sum of each token of a tile, i32, in order.
type WideSums = [u8; 4 * TILE];
/// Where the sums of a row are in the tables of a step.
type Places = [u8; STEP];

/// Pieces are `[cols / 16, STRIDE]` places.
pub(super) const PREPARATION: Preparation =
    Preparation { piece_bytes: |cols| cols / 4 * STRIDE, prepare, gemm: gemm_prepared };

#[trace_timing(avx2_gemm_i2s)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemm_i2s(
    y: &mut [&mut [f32]],
    w: Ternary<'_>,
    x: &ActTiles<'_>,
    scale: f32,
    panel: &mut Lines<u8>,
) {
    let looked_up = |tile: &Tile<'_>| tile.scales.len() >= LEAST_TOKENS && w.rows() >= prepared::ROWS;
    if x.tiles().any(|tile| looked_up(&tile)) {
        let n_bytes = w.rows().div_ceil(prepared::ROWS) * (PREPARATION.piece_bytes)(w.cols());
        panel.resize(n_bytes + Work::n_bytes(w.rows()));
        let (places, scratch) = panel.split_at_mut(n_bytes);
        prepare(places, w);
        Work::new(scratch, Prepared::new(places, w.rows(), w.cols())).run(
            y,
            x.tiles().filter(looked_up),
            scale,
        );
    }
    if !x.tiles().all(|tile| looked_up(&tile)) {
        multiply(y, w, x.tiles().filter(|tile| !looked_up(tile)), scale, panel);
    }
}

// ------------------------------------------------------------------------------------------------- looked up

#[trace_timing(avx2_gemm_prepared)]
#[target_feature(enable = "avx2,fma,f16c")]
fn gemm_prepared(y: &mut [&mut [f32]], w: Prepared<'_>, x: &ActTiles<'_>, scale: f32, panel: &mut Lines<u8>) {
    panel.resize(Work::n_bytes(w.rows()));
    Work::new(panel, w).run(y, x.tiles(), scale);
}

/// The places of all rows; those past the last, up to a multiple of 16, are copies of it, and others anything.
#[trace_timing(avx2_prepare)]
#[target_feature(enable = "avx2,fma,f16c")]
fn prepare(prepared: &mut [u8], w: Ternary<'_>) {
    let pieces = prepared.chunks_exact_mut((PREPARATION.piece_bytes)(w.cols()));
    for (piece, first) in pieces.zip((0..).step_by(prepared::ROWS)) {
        let rows = w.slice(first, prepared::ROWS.min(w.rows() - first));
        find_places(piece.as_chunks_mut().0, rows);
    }
}

/// The places of up to [`prepared::ROWS`] rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn find_places(places: &mut [Places], w: Ternary<'_>) {
    let (bytes, row_bytes) = (w.bytes(), w.row_bytes());
    for first in (0..w.rows()).step_by(16) {
        let blocks = places.chunks_exact_mut(STEPS * STRIDE);
        for (block, places) in (0..row_bytes).step_by(i2s::BLOCK_BYTES).zip(blocks) {
            // Sixteen rows are more streams than the hardware follows: as many bytes of the next ones, in their order.
            for line in (0..16 * i2s::BLOCK_BYTES).step_by(64) {
                prefetch(bytes.as_ptr().wrapping_add((first + 16) * row_bytes + 16 * block + line));
            }
            let mut halves = [[_mm256_setzero_si256(); 8]; 2];
            for (h, half) in halves.iter_mut().enumerate() {
                for (r, row) in half.iter_mut().enumerate() {
                    let row_number = (first + 8 * h + r).min(w.rows() - 1);
                    *row = in_base_3(load_u8(&bytes[row_number * row_bytes + block..]));
                }
                *half = transpose_8x8(*half);
            }
            for (d, places) in places.chunks_exact_mut(STRIDE).enumerate() {
                // A whole cache line at a time.
                let places = &mut places[first..first + 16];
                store_256(places[..8].as_flattened_mut(), halves[0][d]);
                store_256(places[8..].as_flattened_mut(), halves[1][d]);
            }
        }
    }
}

/// What a strip of rows needs while sums are looked up.
struct Work<'a> {
    w: Prepared<'a>,
    tables: &'a mut [Sums; ENTRIES],
    /// `[rows]`, filled up to whole registers: what each row has taken lately.
    sums: &'a mut [Sums],
    /// `[rows]`: what it had taken before.
    wide: &'a mut [WideSums],
}

impl<'a> Work<'a> {
    /// Memory for so many rows.
    fn n_bytes(rows: usize) -> usize {
        ENTRIES * size_of::<Sums>() + rows.next_multiple_of(8) * (size_of::<Sums>() + size_of::<WideSums>())
    }

    /// - `scratch`: as many bytes as they need
    fn new(scratch: &'a mut [u8], w: Prepared<'a>) -> Work<'a> {
        let (tables, rest) = scratch.split_at_mut(ENTRIES * size_of::<Sums>());
        let (sums, wide) = rest.split_at_mut(w.rows().next_multiple_of(8) * size_of::<Sums>());
        Work {
            w,
            tables: tables.as_chunks_mut().0.first_chunk_mut().expect("as many were asked for"),
            sums: sums.as_chunks_mut().0,
            wide: wide.as_chunks_mut().0,
        }
    }

    /// The products of every row and the tokens of all `tiles`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<'b>(&mut self, y: &mut [&mut [f32]], tiles: impl Iterator<Item = Tile<'b>>, scale: f32) {
        for tile in tiles {
            self.add_tile(tile);
            self.store(&mut y[tile.first..][..tile.scales.len()], tile, scale);
        }
    }

    /// Takes the sums of every row and the tokens of `tile`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add_tile(&mut self, tile: Tile<'_>) {
        self.sums.fill([0; _]);
        self.wide.fill([0; _]);
        let n = tile.scales.len();
        let groups = tile.q.as_chunks::<4>().0;
        let (places, _) = self.w.bytes().as_chunks::<STEP>();
        let n_steps = self.w.cols() / 4 / STEP;
        let mut range = [_mm256_setzero_si256(); 2];
        for step in 0..n_steps {
            // The four bytes of a step have a group of activations each, of every quarter of the block.
            let first = step / STEPS * (i2s::BLOCK / 4) + step % STEPS;
            let mut x = [[[_mm256_setzero_si256(); 2]; STEP]; 4];
            for (quarter, x) in x.iter_mut().enumerate() {
                *x = widen(&groups[(first + quarter * STEPS) * n..][..n]);
            }
            if !fits(&mut range, &x) {
                widen_sums(self.sums, self.wide);
                range = [_mm256_setzero_si256(); 2];
                fits(&mut range, &x);
            }
            for byte in 0..STEP {
                let table = self.tables[byte * SUMS..].first_chunk_mut().expect("a table for each byte");
                make_table(table, [x[0][byte], x[1][byte], x[2][byte], x[3][byte]]);
            }
            let pieces = places.chunks_exact(n_steps * STRIDE);
            for (sums, piece) in self.sums.chunks_mut(prepared::ROWS).zip(pieces) {
                let places = &piece[step * STRIDE..][..prepared::ROWS];
                ask_for(places.as_ptr().wrapping_add(n_steps * STRIDE));
                look_up(sums, places, self.tables);
            }
        }
        widen_sums(self.sums, self.wide);
    }

    /// Results from the sums of a tile.
    ///
    /// - `y`: `[n]` tokens' `rows`
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(&self, y: &mut [&mut [f32]], tile: Tile<'_>, scale: f32) {
        for (i, eight) in self.wide.as_chunks::<8>().0.iter().enumerate() {
            let rows = 8 * i..self.w.rows().min(8 * i + 8);
            for (j, y) in y.chunks_mut(8).enumerate() {
                let mut sums = [_mm256_setzero_si256(); 8];
                for (sums, row) in sums.iter_mut().zip(eight) {
                    *sums = load_u8(&row[32 * j..]);
                }
                for (t, (y, dots)) in y.iter_mut().zip(transpose_8x8(sums)).enumerate() {
                    store_eight(&mut y[rows.clone()], dots, tile.scales[8 * j + t].s, scale);
                }
            }
        }
    }
}

/// Asks for the places of a step of a piece.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn ask_for(places: *const Places) {
    for line in (0..prepared::ROWS * STEP).step_by(64) {
        prefetch(places.cast::<u8>().wrapping_add(line));
    }
}

/// Four codes of two bits to the number with these digits, at most 80, in each byte. A code of 3, which is no weight,
/// counts for 2.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_base_3(codes: __m256i) -> __m256i {
    let two_digits = _mm256_setr_epi8(
        0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 6, 7, 8, 8, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 6, 7, 8, 8,
    );
    let four_bits = _mm256_set1_epi8(15);
    let low = _mm256_shuffle_epi8(two_digits, _mm256_and_si256(codes, four_bits));
    let high = _mm256_shuffle_epi8(two_digits, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), four_bits));
    // high * 9 + low: no byte of 8 * high overflows into the next.
    _mm256_add_epi8(_mm256_add_epi8(_mm256_slli_epi16::<3>(high), high), low)
}

/// Four values of up to 32 tokens, as i16, each value's for all tokens together.
///
/// The two lanes of a dword are tokens 8 apart: 0, 8, 1, 9 and so on to 7, 15, and 16 more in the other register.
///
/// - `group`: of up to 32 tokens; the others have zeros
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(group: &[[i8; 4]]) -> [[__m256i; 2]; 4] {
    let mut filled = [[0; 4]; TILE];
    let group = match group.first_chunk::<TILE>() {
        Some(group) => group,
        None => {
            filled[..group.len()].copy_from_slice(group);
            &filled
        }
    };
    let bytes: &[u8] = bytemuck::cast_slice(group.as_flattened());
    let mut x = [[_mm256_setzero_si256(); 2]; 4];
    for h in 0..2 {
        let (near, far) = (load_u8(&bytes[64 * h..]), load_u8(&bytes[64 * h + 32..]));
        // Each dword has values 0 to 3 of a token. Odd ones are the upper bytes of their words, even ones are moved there.
        let odd = [_mm256_srai_epi16::<8>(near), _mm256_srai_epi16::<8>(far)];
        let even = [
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(near)),
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(far)),
        ];
        for (i, [near, far]) in [even, odd].into_iter().enumerate() {
            x[i][h] = _mm256_blend_epi16::<0b1010_1010>(near, _mm256_slli_epi32::<16>(far));
            x[i + 2][h] = _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(near), far);
        }
    }
    x
}

/// Adds the magnitudes of a step's activations to `range`; whether all sums are still sure to fit i16.
///
/// If they did before, those of a step, at most `16 * 128`, leave no u16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fits(range: &mut [__m256i; 2], x: &[[[__m256i; 2]; STEP]; 4]) -> bool {
    for x in x.as_flattened() {
        for (range, x) in range.iter_mut().zip(x) {
            *range = _mm256_add_epi16(*range, _mm256_abs_epi16(*x));
        }
    }
    // The sign bit of every lane says whether it is above 32767.
    let beyond = _mm256_movemask_epi8(_mm256_or_si256(range[0], range[1])) as u32;
    beyond & 0xaaaa_aaaa == 0
}

/// All sums of four activations times -1, 0 or 1: the sum at the place whose digits, the first activation's the highest,
/// are the weights and 1.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn make_table(table: &mut [Sums; SUMS], x: [[__m256i; 2]; 4]) {
    for h in 0..2 {
        let all = _mm256_add_epi16(_mm256_add_epi16(x[0][h], x[1][h]), _mm256_add_epi16(x[2][h], x[3][h]));
        store_256(&mut table[0][32 * h..], _mm256_sub_epi16(_mm256_setzero_si256(), all));
    }
    triple::<1>(table, x[3]);
    triple::<3>(table, x[2]);
    triple::<9>(table, x[1]);
    triple::<27>(table, x[0]);
}

/// Makes the first `3 * N` entries of the first `N` by adding one more activation, and once more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn triple<const N: usize>(table: &mut [Sums; SUMS], x: [__m256i; 2]) {
    for i in 0..2 * N {
        for h in 0..2 {
            let sum = _mm256_add_epi16(load_u8(&table[i][32 * h..]), x[h]);
            store_256(&mut table[i + N][32 * h..], sum);
        }
    }
}

/// Adds to the sums of each row the four at its places.
#[inline(never)] // a loop that takes all registers
#[target_feature(enable = "avx2,fma,f16c")]
fn look_up(sums: &mut [Sums], places: &[Places], tables: &[Sums; ENTRIES]) {
    for (sums, places) in sums.iter_mut().zip(places) {
        let places = u32::from_le_bytes(*places) as usize;
        let mut acc = [load_u8(&sums[..32]), load_u8(&sums[32..])];
        for byte in 0..STEP {
            // No place is above 80; the mask tells the compiler that none is outside.
            let entry = &tables[byte * SUMS + (places >> (8 * byte) & 127)];
            acc[0] = _mm256_add_epi16(acc[0], load_u8(&entry[..32]));
            acc[1] = _mm256_add_epi16(acc[1], load_u8(&entry[32..]));
        }
        store_256(&mut sums[..32], acc[0]);
        store_256(&mut sums[32..], acc[1]);
    }
}

/// Moves the sums of i16 to those of i32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_sums(sums: &mut [Sums], wide: &mut [WideSums]) {
    for (sums, wide) in sums.iter_mut().zip(wide) {
        for (sums, wide) in sums.as_chunks_mut::<32>().0.iter_mut().zip(wide.as_chunks_mut::<64>().0) {
            let both = load_u8(sums);
            let (near, far) = wide.split_at_mut(32);
            add_bytes(near, _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(both)));
            add_bytes(far, _mm256_srai_epi32::<16>(both));
            *sums = [0; 32];
        }
    }
}

/// Adds to 8 values of i32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_bytes(sums: &mut [u8], more: __m256i) {
    store_256(sums, _mm256_add_epi32(load_u8(sums), more));
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_256(bytes: &mut [u8], v: __m256i) {
    let bytes: &mut [u8; 32] = bytes.first_chunk_mut().expect("32 bytes are left");
    // SAFETY: 32 writable bytes by type; this store accepts any alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), v) };
}

// ------------------------------------------------------------------------------------------------ multiplied

/// A panel of rows is unpacked once, four columns of 8 rows across a register; then a few tokens at a time run through
/// it with a broadcast activation.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<'a>(
    y: &mut [&mut [f32]],
    w: Ternary<'_>,
    tiles: impl Iterator<Item = Tile<'a>> + Clone,
    scale: f32,
    panel: &mut Lines<u8>,
) {
    panel.resize(PANEL * w.cols());
    for first in (0..w.rows()).step_by(PANEL) {
        let n_rows = PANEL.min(w.rows() - first);
        unpack_panel(panel, w.slice(first, n_rows));
        for tile in tiles.clone() {
            let n = tile.scales.len();
            for at in (0..n).step_by(TOGETHER) {
                let y = &mut y[tile.first + at..tile.first + n.min(at + TOGETHER)];
                let scales = &tile.scales[at..];
                let q = &tile.q[4 * at..];
                match y.len() {
                    4 => store_tile(y, first, n_rows, sum_tile::<4>(panel, q, n), scales, scale),
                    3 => store_tile(y, first, n_rows, sum_tile::<3>(panel, q, n), scales, scale),
                    2 => store_tile(y, first, n_rows, sum_tile::<2>(panel, q, n), scales, scale),
                    1 => store_tile(y, first, n_rows, sum_tile::<1>(panel, q, n), scales, scale),
                    n => unreachable!("{n} tokens of {TOGETHER}"),
                }
            }
        }
    }
}
