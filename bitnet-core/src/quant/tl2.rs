//! TL2: ternary triples as four bits and a sign, in the order in which bitnet.cpp's x86 lookup kernels read
//! them.
//!
//! ```text
//! columns   three_k = the whole tiles of bk columns, as triples;  two_k = the rest, as pairs, a multiple of 32
//!
//! tensor    indices  rows*three_k/6     nibble = |9*w0 + 3*w1 + w2|, so 0..=13
//!           signs    rows*three_k/24    bit = whether that sum is negative
//!           pairs    rows*two_k/4       nibble = 3*(w0 + 1) + (w1 + 1), so 0..=8
//!           zeros up to a size computed from the shape, then up to a multiple of 32
//!           scale:f32 | 28 bytes of anything
//!
//! in all three planes: tile of bm rows > tile of columns > group of 32 rows, and then
//!
//! indices   two triples > 32 rows: a byte, the first triple in its high nibble
//! signs     eight triples > 16 rows: a 16-bit word; bit 15-2t = triple t of row c, bit 14-2t = of row c+16
//! pairs     (tiles of 32 columns) two pairs > 32 rows: a byte, the first pair in its high nibble
//!
//! order of 32 rows in the bytes of indices and pairs: 0..8, 16..24, 8..16, 24..32
//! ```
//!
//! Tile sizes are not in the file: [`tl_tiles`](super::tl_tiles). Source: bitnet.cpp, `codegen_tl2.py` and
//! its converter.

use std::ops::Range;

use super::codes::{CodeError, check_codes};
use super::i2s_layouts::i2s_scale;
use super::tl_tiles::{TileConfig, TileError};
use super::tl1::{codes_of_pair, pair};

const TAIL_BYTES: usize = 32;

/// The codes of an index: `index = 9*w0 + 3*w1 + w2`; the index itself where it means nothing.
static TRIPLES: [[i8; 3]; 16] = {
    let mut table = [[0; 3]; 16];
    let mut index = 0;
    while index < 16 {
        let n = index as i8;
        // Balanced ternary: add 1 to each digit, that is 13 to the sum, and the digits are ordinary.
        table[index] =
            if n <= 13 { [(n + 13) / 9 - 1, (n + 13) / 3 % 3 - 1, (n + 13) % 3 - 1] } else { [n; 3] };
        index += 1;
    }
    table
};

/// Where a row of 32 is in a unit of 32 bytes; also the row that a byte belongs to, since it only swaps.
fn shuffled(r: usize) -> usize {
    match r / 8 {
        1 => r + 8,
        2 => r - 8,
        _ => r,
    }
}

/// Where the weights of one TL2 matrix are: its shape, and tile sizes that fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    rows: usize,
    cols: usize,
    tiles: TileConfig,
    three_k: usize,
    n_bytes: usize,
}

impl Layout {
    /// The layout of a `[rows, cols]` matrix with these tiles.
    ///
    /// # Errors
    /// [`TileError::Misfit`] if the sizes do not cut the shape into whole tiles.
    pub fn new(rows: usize, cols: usize, tiles: TileConfig) -> Result<Layout, TileError> {
        let TileConfig { bm, bk, bmm } = tiles;
        let misfit = |rule| TileError::Misfit { rows, cols, tiles, rule };
        if bmm != 32 {
            return Err(misfit("bmm must be 32"));
        }
        if bm == 0 || bm > rows || !bm.is_multiple_of(32) || !rows.is_multiple_of(bm) {
            return Err(misfit("bm must be a multiple of 32 and divide the rows"));
        }
        if bk != 96 && bk != 192 {
            return Err(misfit("bk must be 96 or 192"));
        }
        if cols < 256 {
            return Err(misfit("the format needs at least 256 columns"));
        }
        if !(cols % bk).is_multiple_of(32) {
            return Err(misfit("the columns after the last whole tile of bk must be a multiple of 32"));
        }
        let n_bytes = scale_at(rows, cols).and_then(|at| at.checked_add(TAIL_BYTES));
        let n_bytes = n_bytes.ok_or(misfit("there are more weights than can be counted"))?;
        Ok(Layout { rows, cols, tiles, three_k: cols - cols % bk, n_bytes })
    }

    /// Bytes of the tensor, its tail included.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The scale of the whole tensor.
    ///
    /// # Panics
    /// If `bytes` is not [`n_bytes`](Self::n_bytes) long.
    #[must_use]
    pub fn scale(&self, bytes: &[u8]) -> f32 {
        self.assert_bytes(bytes);
        i2s_scale(bytes)
    }

    /// Some rows of the tensor.
    ///
    /// - `bytes`: the whole tensor, [`n_bytes`](Self::n_bytes)
    /// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
    ///
    /// # Errors
    /// The first index above 13, or pair above 8.
    ///
    /// # Panics
    /// If a length disagrees with the above, or `range` ends beyond the rows.
    pub fn unpack(&self, bytes: &[u8], range: Range<usize>, codes: &mut [i8]) -> Result<(), CodeError> {
        self.assert_bytes(bytes);
        let Layout { rows, cols, three_k, .. } = *self;
        assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
        assert_eq!(codes.len(), range.len() * cols, "codes for rows {range:?} of {cols}");
        for (at, m) in range.clone().enumerate() {
            let (triples, pairs) = codes[at * cols..][..cols].split_at_mut(three_k);
            self.unpack_triples(bytes, m, triples);
            self.unpack_pairs(bytes, m, pairs);
        }
        check_codes(codes, cols, range.start, |row, col, found| {
            let max = if col < three_k { 13 } else { 8 };
            CodeError::Code { row, col, found, max }
        })
    }

    /// The columns of row `m` below `three_k`.
    fn unpack_triples(&self, bytes: &[u8], m: usize, codes: &mut [i8]) {
        let Layout { rows, tiles: TileConfig { bm, bk, .. }, three_k, .. } = *self;
        let (tile_row, group, r) = (m / bm * bm, m % bm / 32 * 32, m % 32);
        for (kb, tile) in codes.chunks_exact_mut(bk).enumerate() {
            // Weights before this tile and group; six of them make a byte of indices, 24 a byte of signs.
            let before = tile_row * three_k + kb * bm * bk + group * bk;
            let indices = before / 6 + shuffled(r);
            let signs = rows * three_k / 6 + before / 24 + 2 * (r % 16);
            // Eight triples at a time: four bytes of indices, one word of signs.
            for (j, eight) in tile.as_chunks_mut::<24>().0.iter_mut().enumerate() {
                let word = u16::from_le_bytes([bytes[signs + 32 * j], bytes[signs + 32 * j + 1]]) << (r / 16);
                for (t, triple) in eight.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                    let byte = bytes[indices + 32 * (4 * j + t / 2)];
                    let index = if t % 2 == 0 { byte >> 4 } else { byte & 15 };
                    *triple = TRIPLES[usize::from(index)];
                    if index <= 13 && word << (2 * t) & 0x8000 != 0 {
                        *triple = triple.map(|code| -code);
                    }
                }
            }
        }
    }

    /// The columns of row `m` from `three_k` on.
    fn unpack_pairs(&self, bytes: &[u8], m: usize, codes: &mut [i8]) {
        let Layout { rows, cols, tiles: TileConfig { bm, .. }, three_k, .. } = *self;
        let two_k = cols - three_k;
        let plane = rows * three_k / 6 + rows * three_k / 24;
        let first = plane + m / bm * bm * two_k / 4 + m % bm / 32 * 256 + shuffled(m % 32);
        for (kb, tile) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (j, quad) in tile.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let byte = bytes[first + kb * bm * 8 + 32 * j];
                let ([a, b], [c, d]) = (codes_of_pair(byte >> 4), codes_of_pair(byte & 15));
                *quad = [a, b, c, d];
            }
        }
    }

    /// The tensor, its tail filled with zeros behind the scale.
    ///
    /// - `codes`: `[rows, cols]`, each -1, 0 or +1
    ///
    /// # Panics
    /// If the length disagrees, or a code is not ternary.
    #[must_use]
    pub fn pack(&self, codes: &[i8], scale: f32) -> Vec<u8> {
        let Layout { rows, cols, tiles: TileConfig { bm, bk, .. }, three_k, n_bytes } = *self;
        assert_eq!(codes.len(), rows * cols, "{} codes for [{rows}, {cols}]", codes.len());
        assert!(codes.iter().all(|code| (-1..=1).contains(code)), "a code is not ternary");
        let sum = |row: usize, col: usize| {
            let triple = &codes[row * cols + col..][..3];
            9 * triple[0] + 3 * triple[1] + triple[2]
        };
        let mut bytes = Vec::with_capacity(n_bytes);
        self.for_groups(0..three_k, bm, bk, |row, tile| {
            for col in tile.step_by(6) {
                for q in 0..32 {
                    let (high, low) = (sum(row + shuffled(q), col), sum(row + shuffled(q), col + 3));
                    bytes.push(high.unsigned_abs() << 4 | low.unsigned_abs());
                }
            }
        });
        self.for_groups(0..three_k, bm, bk, |row, tile| {
            for col in tile.step_by(24) {
                for c in 0..16 {
                    let negative = |row: usize, t: usize| u16::from(sum(row, col + 3 * t) < 0);
                    let word = (0..8)
                        .fold(0, |word, t| word << 2 | negative(row + c, t) << 1 | negative(row + c + 16, t));
                    bytes.extend(word.to_le_bytes());
                }
            }
        });
        self.for_groups(three_k..cols, bm, 32, |row, tile| {
            for col in tile.step_by(4) {
                for q in 0..32 {
                    let quad = &codes[(row + shuffled(q)) * cols + col..][..4];
                    bytes.push(pair(quad[0], quad[1]) << 4 | pair(quad[2], quad[3]));
                }
            }
        });
        bytes.resize(n_bytes - TAIL_BYTES, 0);
        bytes.extend(scale.to_le_bytes());
        bytes.resize(n_bytes, 0);
        bytes
    }

    /// Visits the groups of 32 rows of every tile in the order of the file: first row, columns.
    fn for_groups(
        &self,
        cols: Range<usize>,
        bm: usize,
        bk: usize,
        mut visit: impl FnMut(usize, Range<usize>),
    ) {
        for tile_row in (0..self.rows).step_by(bm) {
            for tile_col in cols.clone().step_by(bk) {
                for group in (tile_row..tile_row + bm).step_by(32) {
                    visit(group, tile_col..tile_col + bk);
                }
            }
        }
    }

    fn assert_bytes(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.n_bytes, "{} bytes for [{}, {}]", bytes.len(), self.rows, self.cols);
    }
}

/// Where the scale is: after the planes as they would be if 256 columns were pairs, whatever the tiles; each
/// division rounds down. The true remainder is below 192 columns, and triples take less room than pairs, so
/// the planes end before. `None` beyond counting.
fn scale_at(rows: usize, cols: usize) -> Option<usize> {
    rows.checked_mul(cols)?;
    let triples = cols.checked_sub(256)?.checked_mul(rows)? / 3;
    let pairs = rows.checked_mul(256)? / 2;
    let planes = (triples.checked_mul(5)? / 8).checked_add(pairs.checked_mul(4)? / 8)?;
    planes.checked_next_multiple_of(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, row_splits};
    use crate::quant::tl_tiles::TileTable;

    fn layout(rows: usize, cols: usize, bm: usize, bk: usize) -> Layout {
        Layout::new(rows, cols, TileConfig { bm, bk, bmm: 32 }).unwrap()
    }

    #[test]
    fn packs_the_worked_example() {
        let layout = layout(32, 320, 32, 96);
        let mut codes = vec![0; 32 * 320];
        codes[..6].copy_from_slice(&[1, -1, 0, -1, 1, 1]);
        codes[8 * 320..][..6].copy_from_slice(&[0, 0, -1, 1, 1, 1]);
        codes[16 * 320..][..3].fill(-1);
        codes[288..292].copy_from_slice(&[1, -1, 0, 1]);
        let mut expected = vec![0u8; 2528];
        (expected[0], expected[16], expected[8]) = (0x65, 0x1d, 0xd0);
        (expected[1537], expected[1553]) = (0x60, 0x80);
        expected[1920..1920 + 256].fill(0x44);
        expected[1920] = 0x65;
        expected[2496..2500].copy_from_slice(&[0x00, 0x00, 0x40, 0x3f]);
        assert_eq!(layout.pack(&codes, 0.75), expected);
        expected[2176..2496].fill(0xee); // between the planes and the scale
        expected[2500..].fill(0xee); // and after it
        let mut read = vec![9; 32 * 320];
        layout.unpack(&expected, 0..32, &mut read).unwrap();
        assert_eq!((read, layout.scale(&expected)), (codes, 0.75));
    }

    #[test]
    fn an_index_stands_for_its_sum() {
        for (index, triple) in TRIPLES.iter().enumerate().take(14) {
            assert!(triple.iter().all(|w| (-1..=1).contains(w)));
            assert_eq!(9 * triple[0] + 3 * triple[1] + triple[2], index as i8);
        }
        assert_eq!((TRIPLES[5], TRIPLES[14]), ([1, -1, -1], [14; 3]));
    }

    /// Rows by their place in 32 bytes, spelled out.
    const ROWS: [usize; 32] = [
        0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27,
        28, 29, 30, 31,
    ];

    /// One weight from its closed forms.
    fn weight(bytes: &[u8], layout: &Layout, m: usize, k: usize) -> i8 {
        let Layout { rows, cols, tiles: TileConfig { bm, bk, .. }, .. } = *layout;
        let (three_k, two_k) = (cols / bk * bk, cols - cols / bk * bk);
        let (tm, ib, r) = (m / bm, m % bm / 32, m % 32);
        let pos = ROWS.iter().position(|row| *row == r).unwrap();
        let nibble = |byte: usize, high: bool| if high { bytes[byte] >> 4 } else { bytes[byte] & 15 };
        if k < three_k {
            let (t, kb, tr) = (k / 3, k / bk, k / 3 % (bk / 3));
            assert_eq!(kb, t / (bk / 3));
            let byte = tm * bm * three_k / 6 + kb * bm * bk / 6 + ib * 32 * bk / 6 + tr / 2 * 32 + pos;
            let index = nibble(byte, tr % 2 == 0) as i8;
            let at = rows * three_k / 6
                + tm * bm * three_k / 24
                + kb * bm * bk / 24
                + ib * 32 * bk / 24
                + tr / 8 * 32
                + 2 * (r % 16);
            let word = u16::from(bytes[at]) | u16::from(bytes[at + 1]) << 8;
            let sum = if word >> (15 - (2 * (tr % 8) + r / 16)) & 1 == 1 { -index } else { index };
            // The only triple with this sum.
            let mut found = None;
            for w in 0..27i8 {
                let w = [w / 9 - 1, w / 3 % 3 - 1, w % 3 - 1];
                if 9 * w[0] + 3 * w[1] + w[2] == sum {
                    assert!(found.replace(w[k % 3]).is_none());
                }
            }
            found.unwrap()
        } else {
            let p = (k - three_k) / 2;
            let plane = rows * three_k / 6 + rows * three_k / 24;
            let byte = plane + tm * bm * two_k / 4 + p / 16 * bm * 8 + ib * 256 + p % 16 / 2 * 32 + pos;
            let pair = nibble(byte, p.is_multiple_of(2));
            (if (k - three_k).is_multiple_of(2) { pair / 3 } else { pair % 3 }) as i8 - 1
        }
    }

    #[test]
    fn every_weight_is_where_the_closed_form_says_rows_split_anywhere() {
        let mut rng = Rng(39);
        for (rows, cols, bm, bk) in [
            (32, 256, 32, 96),  // 64 columns of pairs
            (64, 256, 32, 192), // the same with one tile
            (96, 288, 96, 96),  // no pairs
            (128, 352, 64, 192),
            (160, 512, 160, 96),
        ] {
            let layout = layout(rows, cols, bm, bk);
            let codes = rng.codes(rows * cols);
            let bytes = layout.pack(&codes, 0.5);
            assert_eq!((bytes.len(), layout.scale(&bytes)), (layout.n_bytes(), 0.5));
            for m in 0..rows {
                for k in 0..cols {
                    assert_eq!(
                        weight(&bytes, &layout, m, k),
                        codes[m * cols + k],
                        "[{m}, {k}] of {layout:?}"
                    );
                }
            }
            for range in row_splits(rows) {
                let part = range.start * cols..range.end * cols;
                let mut read = vec![9; part.len()];
                layout.unpack(&bytes, range, &mut read).unwrap();
                assert_eq!(read, codes[part], "{layout:?}");
            }
        }
    }

    #[test]
    fn the_planes_end_before_the_scale() {
        let table = TileTable::tl2();
        for (rows, cols) in
            [(1536, 4096), (1536, 1536), (4096, 1536), (3200, 8640), (3200, 3200), (4096, 14336)]
        {
            let layout = Layout::new(rows, cols, table.find(rows, cols).unwrap()).unwrap();
            let two_k = cols - layout.three_k;
            let planes = rows * layout.three_k / 6 + rows * layout.three_k / 24 + rows * two_k / 4;
            assert!(planes <= layout.n_bytes() - 32, "{layout:?}");
        }
        // All shapes of the smallest row count, where rounding down bites most.
        for cols in (256..4096).step_by(32) {
            for bk in [96, 192] {
                if cols % bk % 32 == 0 {
                    let layout = layout(32, cols, 32, bk);
                    let two_k = cols - layout.three_k;
                    assert!(32 * layout.three_k * 5 / 24 + 32 * two_k / 4 <= layout.n_bytes() - 32);
                }
            }
        }
    }

    #[test]
    fn a_nibble_without_meaning_is_named() {
        let layout = layout(64, 320, 32, 96);
        let clean = layout.pack(&vec![0; 64 * 320], 1.0);
        let mut codes = vec![0; 64 * 320];

        let mut bytes = clean.clone();
        bytes[32 * 288 / 6 + 16] = 0x0e; // second row tile, first byte pair, row 8: triple 1
        bytes[64 * 288 / 6 + 32 * 288 / 24 + 17] = 0xff; // its sign, which must not hide it
        let error = layout.unpack(&bytes, 0..64, &mut codes).unwrap_err();
        assert_eq!(error, CodeError::Code { row: 40, col: 3, found: 14, max: 13 });

        let mut bytes = clean;
        bytes[64 * 288 * 5 / 24 + 256 + 32] = 0xf4; // second row tile, third pair, row 0
        let error = layout.unpack(&bytes, 20..64, &mut codes[..44 * 320]).unwrap_err();
        assert_eq!(error, CodeError::Code { row: 32, col: 288 + 4, found: 15, max: 8 });
    }

    #[test]
    fn sizes_that_do_not_cut_the_shape_are_refused() {
        for (rows, cols, bm, bk, bmm) in [
            (32, 320, 32, 96, 64),
            (48, 320, 48, 96, 32),
            (32, 320, 64, 96, 32),
            (32, 320, 0, 96, 32),
            (0, 320, 32, 96, 32),
            (32, 320, 32, 48, 32),
            (32, 192, 32, 96, 32),
            (32, 336, 32, 96, 32),
            (usize::MAX / 32 * 32, 320, 32, 96, 32),
        ] {
            let error = Layout::new(rows, cols, TileConfig { bm, bk, bmm }).unwrap_err();
            assert!(matches!(error, TileError::Misfit { .. }), "{error}");
        }
    }
}
