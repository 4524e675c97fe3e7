//! Ternary weights as Hugging Face checkpoints hold them ("offline quantized"): four output rows to a byte.
//!
//! ```text
//! tensor U8 [P, K] for a matrix [M, K], P = ceil(M / 4)
//!
//!   bits 2i..2i+2 of byte [p, k] = code of row i*P + p, column k          i in 0..4
//! ```
//!
//! Two-bit codes are weight + 1. Rows from M on are padding and hold anything. The scale is a tensor of its
//! own; so is the question whether it multiplies or divides.

use std::ops::Range;

use super::codes::{CodeError, check_two_bits};

/// Rows of the packed tensor of a matrix of `rows` rows.
#[must_use]
pub fn packed_rows(rows: usize) -> usize {
    rows.div_ceil(4)
}

/// Some rows of a packed matrix.
///
/// - `bytes`: `[packed_rows(rows), cols]`, the whole tensor
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
///
/// # Errors
/// The first code 3.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
) -> Result<(), CodeError> {
    let quarter = packed_rows(rows);
    assert_eq!(Some(bytes.len()), quarter.checked_mul(cols), "{} bytes for [{rows}, {cols}]", bytes.len());
    assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
    assert_eq!(Some(codes.len()), range.len().checked_mul(cols), "codes for rows {range:?} of {cols}");
    for (at, row) in range.clone().enumerate() {
        let shift = 2 * (row / quarter);
        let packed = &bytes[row % quarter * cols..][..cols];
        for (code, byte) in codes[at * cols..][..cols].iter_mut().zip(packed) {
            *code = ((byte >> shift) & 3) as i8 - 1;
        }
    }
    check_two_bits(codes, cols, range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, row_splits};

    #[test]
    fn reads_the_worked_example() {
        let bytes = [0x16, 0x25, 0x68, 0x62];
        let expected = [1, 0, -1, 1, 0, 0, 1, -1, 0, 1, 1, 1, -1, -1, 0, 0];
        let mut codes = [9; 16];
        unpack(&bytes, 8, 2, 0..8, &mut codes).unwrap();
        assert_eq!(codes, expected);
    }

    fn pack_naively(codes: &[i8], rows: usize, cols: usize, padding: u8) -> Vec<u8> {
        let quarter = rows.div_ceil(4);
        let mut bytes = vec![0; quarter * cols];
        for row in 0..4 * quarter {
            for col in 0..cols {
                let code = if row < rows { (codes[row * cols + col] + 1) as u8 } else { padding };
                bytes[row % quarter * cols + col] |= code << (2 * (row / quarter));
            }
        }
        bytes
    }

    #[test]
    fn rows_come_back_split_anywhere_whatever_the_padding() {
        let mut rng = Rng(4);
        for (rows, cols) in [(8, 3), (5, 7), (6, 1), (7, 64), (1, 5), (0, 3), (4, 0)] {
            let codes = rng.codes(rows * cols);
            for padding in 0..4 {
                let bytes = pack_naively(&codes, rows, cols, padding);
                for range in row_splits(rows) {
                    let part = range.start * cols..range.end * cols;
                    let mut read = vec![9; part.len()];
                    unpack(&bytes, rows, cols, range, &mut read).unwrap();
                    assert_eq!(read, codes[part]);
                }
            }
        }
    }

    #[test]
    fn code_three_is_named() {
        let mut bytes = vec![0x55; 2 * 5];
        bytes[5 + 3] = 0x5d; // i = 1, p = 1: row 3
        let error = unpack(&bytes, 8, 5, 0..8, &mut [0; 40]).unwrap_err();
        assert_eq!(error, CodeError::Code { row: 3, col: 3, found: 3, max: 2 });
    }
}
