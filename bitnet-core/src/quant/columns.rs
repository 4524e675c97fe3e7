//! A ternary matrix column after column, two bits each: for products with vectors that are mostly zero, whose columns
//! behind zeros are left unread. Made at load beside the rows, never written to a file.
//!
//! ```text
//! line: 256 rows of one column in 64 bytes; a column is filled up to whole lines
//!                            bits 1-0    bits 3-2    bits 5-4    bits 7-6
//!   byte 16 l + 4 k + i      64 k + 4 l + i, then 16, 32 and 48 rows on         k, l, i = 0..4
//! ```
//!
//! A kernel takes four columns at a time and interleaves their bytes, in pairs, then in fours, within each 16 bytes, as
//! all wide registers can. Register `k` of the outcome then holds, in each two bits, four codes for each of 16 rows,
//! which is what a product of four bytes takes. However wide a register is, the sums of 16 neighbouring rows are
//! neighbours.

use std::ops::Range;

use super::i2s::{self, Ternary};

/// Rows of a line.
pub const LINE_ROWS: usize = 256;
/// Bytes of a line.
pub const LINE: usize = LINE_ROWS / 4;

/// A ternary matrix `[rows, cols]`, column after column, without its scale.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    codes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Columns<'a> {
    /// A view of `codes`.
    ///
    /// # Panics
    /// If `codes` is not `cols` columns of [`column_bytes`].
    #[must_use]
    pub fn new(codes: &'a [u8], rows: usize, cols: usize) -> Self {
        assert_eq!(codes.len(), cols * column_bytes(rows), "bytes of a matrix [{rows}, {cols}] by columns");
        Columns { codes, rows, cols }
    }

    /// Number of rows (outputs).
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs).
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns `range` as a matrix of their own.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Columns<'a> {
        let bytes = column_bytes(self.rows);
        let codes = &self.codes[range.start * bytes..range.end * bytes];
        Columns { codes, rows: self.rows, cols: range.len() }
    }

    /// Column `c`, line after line.
    #[must_use]
    pub fn column(&self, c: usize) -> &'a [[u8; LINE]] {
        self.codes[c * column_bytes(self.rows)..][..column_bytes(self.rows)].as_chunks().0
    }
}

/// `N` columns and their activations, four in each i32; what is missing is a column of the group with zero.
#[derive(Debug)]
pub struct Group<'a, const N: usize> {
    /// Line after line of each.
    pub columns: [&'a [[u8; LINE]]; N],
    /// Activations of columns `4 i..4 i + 4` in item `i`, from the lowest byte up; a fourth of the items.
    pub q: [i32; N],
    /// The columns of the next group, to be asked for; empty where there is none.
    pub ahead: [&'a [[u8; LINE]]; N],
}

/// Gathers the first `N` columns in `picked`, of which there is at least one.
#[inline(always)]
#[must_use]
pub fn group<'a, const N: usize>(w: Columns<'a>, picked: &[u32], q: &[i8]) -> Group<'a, N> {
    let (now, later) = picked.split_at(N.min(picked.len()));
    let mut group = Group { columns: [w.column(now[0] as usize); N], q: [0; N], ahead: [&[]; N] };
    for (i, (column, &c)) in group.columns.iter_mut().zip(now).enumerate() {
        *column = w.column(c as usize);
        group.q[i / 4] |= i32::from(q[c as usize] as u8) << (8 * (i % 4));
    }
    for (column, &c) in group.ahead.iter_mut().zip(later) {
        *column = w.column(c as usize);
    }
    group
}

/// Bytes of a column of `rows` weights.
#[must_use]
pub fn column_bytes(rows: usize) -> usize {
    rows.div_ceil(LINE_ROWS) * LINE
}

/// Where the code of row `r` of a line is: its byte, and how many bits up.
#[must_use]
pub fn place(r: usize) -> (usize, usize) {
    (16 * (r / 4 % 4) + 4 * (r / 64) + r % 4, 2 * (r / 16 % 4))
}

/// The first of the four rows, 16 apart, whose codes are in byte `at` of a line.
fn first_row(at: usize) -> usize {
    64 * (at / 4 % 4) + 4 * (at / 16) + at % 4
}

/// Turns [`i2s::BLOCK`] columns from `first` on; rows past the last are zero in every column.
///
/// Codes stay packed on the way: four rows are four bytes of an I2_S block at a time, and what they hold of one group
/// of columns is one byte of a line. Then the bytes of each group are turned.
///
/// - `columns`: `[BLOCK, column_bytes]`, overwritten
///
/// # Panics
/// If `columns` is not as long, or the columns are not there.
#[inline(always)]
pub fn pack_columns(columns: &mut [u8], w: Ternary<'_>, first: usize) {
    const NONE: &[u8] = &[0; i2s::BLOCK_BYTES];
    let bytes = column_bytes(w.rows());
    assert_eq!(columns.len(), i2s::BLOCK * bytes, "{} columns of {} rows", i2s::BLOCK, w.rows());
    for line in 0..bytes / LINE {
        let mut groups = [[[0_u8; i2s::BLOCK_BYTES]; LINE]; 4];
        for at in 0..LINE {
            let mut rows = [NONE; 4];
            for (i, row) in rows.iter_mut().enumerate() {
                let r = line * LINE_ROWS + first_row(at) + 16 * i;
                if r < w.rows() {
                    *row = &w.row(r)[first / 4..][..i2s::BLOCK_BYTES];
                }
            }
            let [a, b, c, d] = rows;
            for j in 0..i2s::BLOCK_BYTES {
                let (a, b, c, d) = (a[j], b[j], c[j], d[j]);
                groups[0][at][j] = a >> 6 & 0x03 | b >> 4 & 0x0c | c >> 2 & 0x30 | d & 0xc0;
                groups[1][at][j] = a >> 4 & 0x03 | b >> 2 & 0x0c | c & 0x30 | d << 2 & 0xc0;
                groups[2][at][j] = a >> 2 & 0x03 | b & 0x0c | c << 2 & 0x30 | d << 4 & 0xc0;
                groups[3][at][j] = a & 0x03 | b << 2 & 0x0c | c << 4 & 0x30 | d << 6 & 0xc0;
            }
        }
        for (group, columns) in groups.iter_mut().zip(columns.chunks_exact_mut(i2s::BLOCK_BYTES * bytes)) {
            let turned = turn(group.as_flattened_mut());
            for (column, turned) in columns.chunks_exact_mut(bytes).zip(turned.as_chunks::<LINE>().0) {
                column[line * LINE..][..LINE].copy_from_slice(turned);
            }
        }
    }
}

/// Bytes that are turned at once.
const TURNED: usize = LINE * i2s::BLOCK_BYTES;

/// The transpose of `[LINE, BLOCK_BYTES]`; what `from` holds afterwards is not said.
///
/// Dealing two halves into one another, a byte from each in turn, moves the highest bit of every byte's index to the
/// lowest place. After as many deals as a row's index has bits, rows and columns have changed places.
#[inline(always)]
fn turn(from: &mut [u8]) -> [u8; TURNED] {
    let mut to = [0; TURNED];
    for deal in 0..LINE.ilog2() {
        if deal > 0 {
            from.copy_from_slice(&to);
        }
        let (low, high) = from.split_at(TURNED / 2);
        for ((pair, low), high) in to.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
            *pair = [*low, *high];
        }
    }
    to
}

/// `y_r = f32(f32(f32(sum) / s) * scale)`, where `sum` is what `n` threads have for row `r` together, less `less`.
///
/// - `y`: `[rows]`, overwritten; `sums`: `[n, rows]` with rows filled up to whole lines
#[inline(always)]
pub fn join_sums(y: &mut [f32], sums: &[i32], less: i32, s: f32, scale: f32) {
    let rows = y.len().next_multiple_of(LINE_ROWS);
    for (first, y) in (0..).step_by(LINE_ROWS).zip(y.chunks_mut(LINE_ROWS)) {
        let mut total = [-less; LINE_ROWS];
        for sums in sums.chunks_exact(rows) {
            for (total, sum) in total.iter_mut().zip(&sums[first..first + LINE_ROWS]) {
                *total += sum;
            }
        }
        for (y, total) in y.iter_mut().zip(total) {
            *y = total as f32 / s * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::Rng;

    #[test]
    fn every_code_is_found_where_its_place_says() {
        let mut rng = Rng(5);
        for (rows, cols) in [(1, 128), (255, 256), (256, 128), (257, 384), (640, 128)] {
            let codes = rng.codes(rows * cols);
            let packed = i2s::pack(&codes);
            let w = Ternary::new(&packed, rows, cols);
            let mut bytes = vec![0xff; cols * column_bytes(rows)];
            let blocks = bytes.chunks_exact_mut(i2s::BLOCK * column_bytes(rows));
            for (block, bytes) in blocks.enumerate() {
                pack_columns(bytes, w, block * i2s::BLOCK);
            }
            let columns = Columns::new(&bytes, rows, cols);
            for c in 0..cols {
                for r in 0..rows.next_multiple_of(LINE_ROWS) {
                    let (byte, shift) = place(r % LINE_ROWS);
                    let code = columns.column(c)[r / LINE_ROWS][byte] >> shift & 3;
                    let expected = if r < rows { (codes[r * cols + c] + 1) as u8 } else { 0 };
                    assert_eq!(code, expected, "[{rows}, {cols}] row {r}, column {c}");
                }
            }
        }
    }

    #[test]
    fn places_of_a_line_are_all_different() {
        let mut seen = [[false; 4]; LINE];
        for r in 0..LINE_ROWS {
            let (byte, shift) = place(r);
            assert!(!std::mem::replace(&mut seen[byte][shift / 2], true), "row {r}");
        }
    }
}
