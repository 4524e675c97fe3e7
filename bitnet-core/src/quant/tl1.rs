//! TL1: ternary pairs in nibbles, in the order in which bitnet.cpp's ARM lookup kernels read them.
//!
//! ```text
//! byte      one row, four columns c..c+4:   bits 4..8 = pair (c, c+1)   bits 0..4 = pair (c+2, c+3)
//! pair      3*(w0 + 1) + (w1 + 1), so 0..=8
//!
//! order     tile of bm rows > tile of bk columns > group of bmm rows > step of `by` columns
//! of bytes    > 16 rows of the group > quad of columns > row
//!
//! tensor    rows*cols/4 bytes | scale:f32 | 28 bytes of anything
//! ```
//!
//! `by = 256 / bmm`, 8 or 4. Tile sizes are not in the file: [`tl_tiles`](super::tl_tiles). Source:
//! bitnet.cpp, `codegen_tl1.py` and its converter.

use std::ops::Range;

use super::codes::{CodeError, check_codes, stored};
use super::i2s_layouts::i2s_scale;
use super::tl_tiles::{TileConfig, TileError};

const TAIL_BYTES: usize = 32;

/// The codes of a nibble; the nibble itself where it means nothing.
static PAIRS: [[i8; 2]; 16] = {
    let mut table = [[0; 2]; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let n = nibble as i8;
        table[nibble] = if n <= 8 { [n / 3 - 1, n % 3 - 1] } else { [n, n] };
        nibble += 1;
    }
    table
};

/// A pair of codes as a nibble.
pub(super) fn pair(w0: i8, w1: i8) -> u8 {
    3 * stored(w0) + stored(w1)
}

/// The codes of a pair's nibble, both above +1 if it means nothing.
pub(super) fn codes_of_pair(nibble: u8) -> [i8; 2] {
    PAIRS[usize::from(nibble)]
}

/// Where the weights of one TL1 matrix are: its shape, and tile sizes that fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    rows: usize,
    cols: usize,
    tiles: TileConfig,
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
        if bmm != 32 && bmm != 64 {
            return Err(misfit("bmm must be 32 or 64"));
        }
        if bm == 0 || bm > rows || !bm.is_multiple_of(bmm) || !rows.is_multiple_of(bm) {
            return Err(misfit("bm must be a multiple of bmm and divide the rows"));
        }
        if bk == 0 || bk > cols || !bk.is_multiple_of(256 / bmm) || !cols.is_multiple_of(bk) {
            return Err(misfit("bk must be a multiple of 256 / bmm and divide the columns"));
        }
        let n_bytes = rows.checked_mul(cols).and_then(|n| (n / 4).checked_add(TAIL_BYTES));
        let n_bytes = n_bytes.ok_or(misfit("there are more weights than can be counted"))?;
        Ok(Layout { rows, cols, tiles, n_bytes })
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
    /// The first nibble above 8.
    ///
    /// # Panics
    /// If a length disagrees with the above, or `range` ends beyond the rows.
    pub fn unpack(&self, bytes: &[u8], range: Range<usize>, codes: &mut [i8]) -> Result<(), CodeError> {
        self.assert_bytes(bytes);
        let Layout { rows, cols, tiles: TileConfig { bm, bk, bmm }, .. } = *self;
        assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
        assert_eq!(codes.len(), range.len() * cols, "codes for rows {range:?} of {cols}");
        let by = 256 / bmm;
        for (at, m) in range.clone().enumerate() {
            // The row's first byte in the first column tile of its row tile; then the strides along its
            // columns.
            let first = m / bm * bm * cols / 4 + m % bm / bmm * bmm * bk / 4 + m % bmm / 16 * 4 * by + m % 16;
            let row = &mut codes[at * cols..][..cols];
            for (kb, tile) in row.chunks_exact_mut(bk).enumerate() {
                for (jb, step) in tile.chunks_exact_mut(by).enumerate() {
                    let first = first + kb * bm * bk / 4 + jb * 64;
                    for (jq, quad) in step.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                        let byte = bytes[first + 16 * jq];
                        let ([a, b], [c, d]) = (codes_of_pair(byte >> 4), codes_of_pair(byte & 15));
                        *quad = [a, b, c, d];
                    }
                }
            }
        }
        check_codes(codes, cols, range.start, |row, col, found| CodeError::Code { row, col, found, max: 8 })
    }

    /// The tensor, its tail filled with zeros behind the scale.
    ///
    /// - `codes`: `[rows, cols]`, each -1, 0 or +1
    ///
    /// # Panics
    /// If the length disagrees, or a code is not ternary.
    #[must_use]
    pub fn pack(&self, codes: &[i8], scale: f32) -> Vec<u8> {
        let Layout { rows, cols, tiles: TileConfig { bm, bk, bmm }, n_bytes } = *self;
        assert_eq!(codes.len(), rows * cols, "{} codes for [{rows}, {cols}]", codes.len());
        let by = 256 / bmm;
        let mut bytes = Vec::with_capacity(n_bytes);
        for tile_row in (0..rows).step_by(bm) {
            for tile_col in (0..cols).step_by(bk) {
                for group in (tile_row..tile_row + bm).step_by(bmm) {
                    for step in (tile_col..tile_col + bk).step_by(by) {
                        for half in (group..group + bmm).step_by(16) {
                            for c in (step..step + by).step_by(4) {
                                for r in half..half + 16 {
                                    let quad = &codes[r * cols + c..][..4];
                                    bytes.push(pair(quad[0], quad[1]) << 4 | pair(quad[2], quad[3]));
                                }
                            }
                        }
                    }
                }
            }
        }
        bytes.extend(scale.to_le_bytes());
        bytes.resize(n_bytes, 0);
        bytes
    }

    fn assert_bytes(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.n_bytes, "{} bytes for [{}, {}]", bytes.len(), self.rows, self.cols);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, row_splits};
    use crate::quant::tl_tiles::TileTable;

    fn layout(rows: usize, cols: usize, bm: usize, bk: usize, bmm: usize) -> Layout {
        Layout::new(rows, cols, TileConfig { bm, bk, bmm }).unwrap()
    }

    #[test]
    fn packs_the_worked_example() {
        let layout = layout(128, 64, 128, 64, 32);
        let mut codes = vec![0; 128 * 64];
        codes[..8].copy_from_slice(&[1, -1, 0, 1, 0, 1, -1, 0]);
        codes[64..68].fill(-1);
        codes[16 * 64..][..4].fill(1);
        let mut expected = vec![0x44u8; 128 * 16];
        (expected[0], expected[1], expected[16], expected[32]) = (0x65, 0x00, 0x51, 0x88);
        expected.extend([0x00, 0x00, 0x40, 0x3f]);
        expected.extend([0; 28]);
        assert_eq!(layout.pack(&codes, 0.75), expected);
        expected[2048 + 4..].fill(0xee); // whatever a writer left there
        let mut read = vec![9; 128 * 64];
        layout.unpack(&expected, 0..128, &mut read).unwrap();
        assert_eq!((read, layout.scale(&expected)), (codes, 0.75));
    }

    /// One weight from its closed form: byte, whether in the high nibble, whether first of its pair.
    fn place(cols: usize, tiles: TileConfig, m: usize, k: usize) -> (usize, bool, bool) {
        let TileConfig { bm, bk, bmm } = tiles;
        let (by, p) = (256 / bmm, k / 2);
        let (tm, ib, r16, r) = (m / bm, m % bm / bmm, m % bmm / 16, m % 16);
        let (kb, jb, jq) = (p / (bk / 2), p % (bk / 2) / (by / 2), p % (by / 2) / 2);
        let tile = tm * bm * cols / 4 + kb * bm * bk / 4;
        let byte = tile + ib * bmm * bk / 4 + jb * 64 + r16 * 4 * by + jq * 16 + r;
        (byte, p.is_multiple_of(2), k.is_multiple_of(2))
    }

    #[test]
    fn every_weight_is_where_the_closed_form_says_rows_split_anywhere() {
        let mut rng = Rng(38);
        for (rows, cols, bm, bk, bmm) in [
            (64, 16, 64, 8, 64),
            (64, 16, 32, 8, 32),
            (192, 72, 64, 24, 32),
            (256, 256, 128, 64, 64),
            (320, 384, 160, 128, 32),
        ] {
            let layout = layout(rows, cols, bm, bk, bmm);
            let codes = rng.codes(rows * cols);
            let bytes = layout.pack(&codes, 0.5);
            assert_eq!(bytes.len(), layout.n_bytes());
            for m in 0..rows {
                for k in 0..cols {
                    let (byte, high, first) = place(cols, layout.tiles, m, k);
                    let nibble = if high { bytes[byte] >> 4 } else { bytes[byte] & 15 };
                    let stored = if first { nibble / 3 } else { nibble % 3 };
                    assert_eq!(stored as i8 - 1, codes[m * cols + k], "[{m}, {k}] of {layout:?}");
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
    fn a_nibble_above_eight_is_named() {
        let layout = layout(128, 64, 64, 32, 32);
        let mut bytes = layout.pack(&vec![0; 128 * 64], 1.0);
        let (byte, high, _) = place(64, layout.tiles, 77, 46);
        bytes[byte] = if high { 0x94 } else { 0x49 };
        let error = layout.unpack(&bytes, 70..128, &mut vec![0; 58 * 64]).unwrap_err();
        assert_eq!(error, CodeError::Code { row: 77, col: 46, found: 9, max: 8 });
        layout.unpack(&bytes, 0..77, &mut vec![0; 77 * 64]).unwrap();
    }

    #[test]
    fn the_built_in_sizes_fit_their_shapes() {
        let table = TileTable::tl1();
        for (rows, cols) in [(1536, 4096), (3200, 8640), (8640, 3200), (4096, 14336), (1024, 4096)] {
            for tiles in table.candidates(rows, cols) {
                assert_eq!(Layout::new(rows, cols, tiles).unwrap().n_bytes(), rows * cols / 4 + 32);
            }
        }
    }

    #[test]
    fn sizes_that_do_not_cut_the_shape_are_refused() {
        for (rows, cols, bm, bk, bmm) in [
            (128, 64, 128, 64, 16),
            (128, 64, 48, 64, 32),
            (128, 64, 96, 64, 32),
            (128, 64, 128, 60, 32),
            (128, 64, 128, 48, 32),
            (128, 64, 0, 64, 32),
            (128, 64, 128, 0, 32),
            (128, 0, 128, 64, 32),
            (0, 64, 128, 64, 32),
            (usize::MAX / 32 / 32 * 32 * 32, 1024, 32, 64, 32),
        ] {
            let error = Layout::new(rows, cols, TileConfig { bm, bk, bmm }).unwrap_err();
            assert!(matches!(error, TileError::Misfit { .. }), "{error}");
        }
    }
}
