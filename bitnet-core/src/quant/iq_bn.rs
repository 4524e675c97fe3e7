//! IQ1_BN, IQ2_BN and IQ2_BN_R4: ternary, with one scale in front of every row.
//!
//! ```text
//! IQ1_BN      row = scale:f16 | cols/64 x 13 bytes                        1.63 bits per weight
//!
//!   block = ql[12] | extra      digit j of ql[3i+k] = weight 16i + 5k + j    i in 0..4, k in 0..3, j in 0..5
//!                               digit i of extra    = weight 16i + 15        fifth digit 0
//!
//! IQ2_BN      row = scale:f32 | cols/64 x 16 bytes                        2 bits per weight
//!
//!   bits 2s..2s+2 of byte j = weight 16s + j                              s in 0..4, j in 0..16
//!
//! IQ2_BN_R4   four rows = scale:f32 x 4 | cols/64 x 64 bytes              2 bits per weight
//!
//!   bits 2s..2s+2 of byte 16l + 4k + i = row k, weight 16l + 4s + i       k, l, s, i in 0..4
//! ```
//!
//! Digits and two-bit codes are weight + 1; the first digit weighs *least* here. Layouts: ik_llama.cpp. Rows
//! are aligned to nothing, IQ1_BN's not even to two bytes.

use std::ops::Range;

use half::f16;

use super::codes::{CodeError, DIGITS, NO_DIGITS, check_codes, check_two_bits, five_digits, stored};

const BLOCK_LEN: usize = 64;
const IQ1_BN_BLOCK: usize = 13;
const IQ2_BN_BLOCK: usize = 16;

/// Bytes of an IQ1_BN tensor; `None` unless `cols` is a multiple of 64 and the product can be counted.
#[must_use]
pub fn iq1_bn_bytes(rows: usize, cols: usize) -> Option<usize> {
    tensor_bytes(rows, cols, 2, IQ1_BN_BLOCK)
}

/// Bytes of an IQ2_BN tensor; `None` unless `cols` is a multiple of 64 and the product can be counted.
#[must_use]
pub fn iq2_bn_bytes(rows: usize, cols: usize) -> Option<usize> {
    tensor_bytes(rows, cols, 4, IQ2_BN_BLOCK)
}

/// Bytes of an IQ2_BN_R4 tensor: those of IQ2_BN, in groups of four rows; `None` if `rows` makes no such
/// groups.
#[must_use]
pub fn iq2_bn_r4_bytes(rows: usize, cols: usize) -> Option<usize> {
    if rows.is_multiple_of(4) { iq2_bn_bytes(rows, cols) } else { None }
}

/// Some rows of an IQ1_BN tensor.
///
/// - `bytes`: the whole tensor, `iq1_bn_bytes(rows, cols)`
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
/// - `scales`: `[range.len()]`, overwritten
///
/// # Errors
/// The first byte that holds no digits.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack_iq1_bn(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
) -> Result<(), CodeError> {
    assert_lengths(bytes, iq1_bn_bytes(rows, cols), rows, cols, &range, codes, scales);
    let row_bytes = 2 + cols / BLOCK_LEN * IQ1_BN_BLOCK;
    for (at, row) in range.clone().enumerate() {
        let (head, blocks) = bytes[row * row_bytes..][..row_bytes].split_at(2);
        scales[at] = f16::from_le_bytes([head[0], head[1]]).to_f32();
        let codes = codes[at * cols..][..cols].as_chunks_mut::<BLOCK_LEN>().0;
        for (block, codes) in blocks.as_chunks::<IQ1_BN_BLOCK>().0.iter().zip(codes) {
            let extra = DIGITS[usize::from(block[12])];
            for i in 0..4 {
                for k in 0..3 {
                    let digits = DIGITS[usize::from(block[3 * i + k])];
                    for j in 0..5 {
                        codes[16 * i + 5 * k + j] = digits[4 - j];
                    }
                }
                // The fifth digit of `extra` comes first in the table.
                codes[16 * i + 15] = if extra[0] == -1 { extra[4 - i] } else { NO_DIGITS };
            }
        }
    }
    check_codes(codes, cols, range.start, |row, col, _| CodeError::Digits { row, col })
}

/// Some rows of an IQ2_BN tensor.
///
/// - `bytes`: the whole tensor, `iq2_bn_bytes(rows, cols)`
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
/// - `scales`: `[range.len()]`, overwritten
///
/// # Errors
/// The first code 3.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack_iq2_bn(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
) -> Result<(), CodeError> {
    assert_lengths(bytes, iq2_bn_bytes(rows, cols), rows, cols, &range, codes, scales);
    let row_bytes = 4 + cols / 4;
    for (at, row) in range.clone().enumerate() {
        let (head, blocks) = bytes[row * row_bytes..][..row_bytes].split_at(4);
        scales[at] = f32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let codes = codes[at * cols..][..cols].as_chunks_mut::<BLOCK_LEN>().0;
        for (block, codes) in blocks.as_chunks::<IQ2_BN_BLOCK>().0.iter().zip(codes) {
            for s in 0..4 {
                for j in 0..16 {
                    codes[16 * s + j] = ((block[j] >> (2 * s)) & 3) as i8 - 1;
                }
            }
        }
    }
    check_two_bits(codes, cols, range.start)
}

/// Some rows of an IQ2_BN_R4 tensor; the range need not respect the groups of four.
///
/// - `bytes`: the whole tensor, `iq2_bn_r4_bytes(rows, cols)`
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
/// - `scales`: `[range.len()]`, overwritten
///
/// # Errors
/// The first code 3.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack_iq2_bn_r4(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
) -> Result<(), CodeError> {
    assert_lengths(bytes, iq2_bn_r4_bytes(rows, cols), rows, cols, &range, codes, scales);
    let group_bytes = 16 + cols;
    for (at, row) in range.clone().enumerate() {
        let k = row % 4;
        let (heads, blocks) = bytes[row / 4 * group_bytes..][..group_bytes].split_at(16);
        scales[at] = f32::from_le_bytes(heads.as_chunks().0[k]);
        let codes = codes[at * cols..][..cols].as_chunks_mut::<16>().0;
        // Sixteen columns of all four rows are sixteen bytes.
        for (quarter, codes) in blocks.as_chunks::<16>().0.iter().zip(codes) {
            for s in 0..4 {
                for i in 0..4 {
                    codes[4 * s + i] = ((quarter[4 * k + i] >> (2 * s)) & 3) as i8 - 1;
                }
            }
        }
    }
    check_two_bits(codes, cols, range.start)
}

/// An IQ1_BN tensor.
///
/// - `codes`: `[rows, cols]`, each -1, 0 or +1
/// - `scales`: `[rows]`; kept in half precision, rounded to nearest even
///
/// # Panics
/// If a length disagrees, a code is not ternary, or `cols` is not a multiple of 64.
#[must_use]
pub fn pack_iq1_bn(codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> Vec<u8> {
    let n_bytes = packed_bytes(iq1_bn_bytes(rows, cols), codes, rows, cols, scales);
    let mut bytes = Vec::with_capacity(n_bytes);
    for (row, scale) in scales.iter().enumerate() {
        bytes.extend(f16::from_f32(*scale).to_le_bytes());
        for block in codes[row * cols..][..cols].as_chunks::<BLOCK_LEN>().0 {
            let mut extra = 0;
            for i in (0..4).rev() {
                extra = 3 * extra + stored(block[16 * i + 15]);
            }
            for group in block.as_chunks::<16>().0 {
                for five in group.as_chunks::<5>().0 {
                    bytes.push(five_digits(five.iter().rev().fold(0, |v, code| 3 * v + stored(*code))));
                }
            }
            bytes.push(five_digits(extra));
        }
    }
    bytes
}

/// An IQ2_BN tensor.
///
/// - `codes`: `[rows, cols]`, each -1, 0 or +1
/// - `scales`: `[rows]`
///
/// # Panics
/// If a length disagrees, a code is not ternary, or `cols` is not a multiple of 64.
#[must_use]
pub fn pack_iq2_bn(codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> Vec<u8> {
    let n_bytes = packed_bytes(iq2_bn_bytes(rows, cols), codes, rows, cols, scales);
    let mut bytes = Vec::with_capacity(n_bytes);
    for (row, scale) in scales.iter().enumerate() {
        bytes.extend(scale.to_le_bytes());
        for block in codes[row * cols..][..cols].as_chunks::<BLOCK_LEN>().0 {
            for j in 0..16 {
                bytes.push((0..4).fold(0, |byte, s| byte | stored(block[16 * s + j]) << (2 * s)));
            }
        }
    }
    bytes
}

fn tensor_bytes(rows: usize, cols: usize, head_bytes: usize, block_bytes: usize) -> Option<usize> {
    rows.checked_mul(cols)?; // codes can be counted
    if !cols.is_multiple_of(BLOCK_LEN) {
        return None;
    }
    (cols / BLOCK_LEN).checked_mul(block_bytes)?.checked_add(head_bytes)?.checked_mul(rows)
}

fn assert_lengths(
    bytes: &[u8],
    n_bytes: Option<usize>,
    rows: usize,
    cols: usize,
    range: &Range<usize>,
    codes: &[i8],
    scales: &[f32],
) {
    assert_eq!(Some(bytes.len()), n_bytes, "{} bytes for [{rows}, {cols}]", bytes.len());
    assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
    assert_eq!(codes.len(), range.len() * cols, "codes for rows {range:?} of {cols}");
    assert_eq!(scales.len(), range.len(), "scales for rows {range:?}");
}

fn packed_bytes(n_bytes: Option<usize>, codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> usize {
    assert_eq!(Some(codes.len()), rows.checked_mul(cols), "{} codes for [{rows}, {cols}]", codes.len());
    assert_eq!(scales.len(), rows, "scales for {rows} rows");
    n_bytes.expect("cols is a multiple of 64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, pack_iq2_bn_r4, row_splits};

    #[test]
    fn iq1_bn_packs_the_worked_example() {
        let mut codes = vec![0i8; 64];
        for (at, code) in [(0, 1), (4, -1), (5, 1), (15, 1), (31, -1)] {
            codes[at] = code;
        }
        let mut expected = vec![0x80u8; 15];
        expected[..4].copy_from_slice(&[0x00, 0x3a, 0x2c, 0x81]);
        expected[14] = 0x29;
        assert_eq!(pack_iq1_bn(&codes, 1, 64, &[0.75]), expected);
        let (mut read, mut scales) = ([9; 64], [9.0]);
        unpack_iq1_bn(&expected, 1, 64, 0..1, &mut read, &mut scales).unwrap();
        assert_eq!((&read[..], scales), (&codes[..], [0.75]));
    }

    fn iq2_bn_example() -> Vec<i8> {
        let mut codes = vec![0; 64];
        for (at, code) in [(0, 1), (16, -1), (32, 1), (63, -1)] {
            codes[at] = code;
        }
        codes
    }

    #[test]
    fn iq2_bn_packs_the_worked_example() {
        let codes = iq2_bn_example();
        let mut expected = vec![0x55u8; 20];
        expected[..5].copy_from_slice(&[0x00, 0x00, 0x40, 0x3f, 0x62]);
        expected[19] = 0x15;
        assert_eq!(pack_iq2_bn(&codes, 1, 64, &[0.75]), expected);
        let (mut read, mut scales) = ([9; 64], [9.0]);
        unpack_iq2_bn(&expected, 1, 64, 0..1, &mut read, &mut scales).unwrap();
        assert_eq!((&read[..], scales), (&codes[..], [0.75]));
    }

    #[test]
    fn iq2_bn_r4_reads_the_worked_example() {
        let mut expected = iq2_bn_example();
        expected.resize(256, 0);
        for (at, code) in [(64, 1), (128 + 4, -1), (192, 1)] {
            expected[at] = code;
        }
        let mut bytes = vec![0x00, 0x00, 0x40, 0x3f, 0x00, 0x00, 0x00, 0x3f];
        bytes.extend([0x00, 0x00, 0x00, 0x3f, 0x00, 0x00, 0x80, 0x3e]);
        bytes.extend([0x55; 64]);
        for (at, byte) in [(0, 0x56), (4, 0x56), (8, 0x51), (12, 0x56), (16, 0x54), (32, 0x56), (51, 0x15)] {
            bytes[16 + at] = byte;
        }
        let (mut codes, mut scales) = ([9; 256], [9.0; 4]);
        unpack_iq2_bn_r4(&bytes, 4, 64, 0..4, &mut codes, &mut scales).unwrap();
        assert_eq!((&codes[..], scales), (&expected[..], [0.75, 0.5, 0.5, 0.25]));
    }

    type Unpack = fn(&[u8], usize, usize, Range<usize>, &mut [i8], &mut [f32]) -> Result<(), CodeError>;

    #[test]
    fn what_was_packed_is_unpacked_rows_split_anywhere() {
        let mut rng = Rng(134);
        for (rows, cols) in [(4, 64), (8, 192), (12, 3200), (4, 0), (0, 64), (3, 128), (5, 64)] {
            let codes = rng.codes(rows * cols);
            // Half precision holds these exactly.
            let scales: Vec<f32> = (0..rows).map(|_| rng.below(2048) as f32 / 64.0).collect();
            let mut packed = vec![
                (pack_iq1_bn(&codes, rows, cols, &scales), unpack_iq1_bn as Unpack),
                (pack_iq2_bn(&codes, rows, cols, &scales), unpack_iq2_bn),
            ];
            assert_eq!(Some(packed[0].0.len()), iq1_bn_bytes(rows, cols));
            assert_eq!(Some(packed[1].0.len()), iq2_bn_bytes(rows, cols));
            if rows % 4 == 0 {
                packed.push((pack_iq2_bn_r4(&codes, rows, cols, &scales), unpack_iq2_bn_r4));
            }
            for (bytes, unpack) in packed {
                for range in row_splits(rows) {
                    let (mut c, mut s) = (vec![9; range.len() * cols], vec![9.0; range.len()]);
                    unpack(&bytes, rows, cols, range.clone(), &mut c, &mut s).unwrap();
                    assert_eq!(c, codes[range.start * cols..range.end * cols]);
                    assert_eq!(s, scales[range]);
                }
            }
        }
    }

    #[test]
    fn bytes_without_meaning_are_named() {
        let (mut codes, mut scales) = (vec![0; 4 * 128], vec![0.0; 4]);
        let three = CodeError::Code { row: 2, col: 64 + 37, found: 3, max: 2 };

        let mut bytes = pack_iq2_bn(&codes, 4, 128, &scales);
        bytes[2 * 36 + 4 + 16 + 5] = 0x75; // weight 37 of the block
        assert_eq!(unpack_iq2_bn(&bytes, 4, 128, 0..4, &mut codes, &mut scales), Err(three));

        let mut bytes = pack_iq2_bn_r4(&vec![0; 4 * 128], 4, 128, &scales);
        bytes[16 + 64 + 32 + 8 + 1] = 0x5d; // l = 2, k = 2, s = 1, i = 1
        assert_eq!(unpack_iq2_bn_r4(&bytes, 4, 128, 0..4, &mut codes, &mut scales), Err(three));

        let mut bytes = pack_iq1_bn(&vec![0; 4 * 128], 4, 128, &scales);
        bytes[28 + 2 + 12] = 0xff; // digits 2 in all five places, where the fifth must be 0
        let error = unpack_iq1_bn(&bytes, 4, 128, 1..3, &mut codes[..256], &mut scales[..2]).unwrap_err();
        assert_eq!(error, CodeError::Digits { row: 1, col: 15 });
    }

    #[test]
    fn sizes_are_whole_blocks_or_nothing() {
        assert_eq!(iq1_bn_bytes(2560, 6912), Some(2560 * (2 + 108 * 13)));
        assert_eq!(iq2_bn_bytes(3, 64), Some(60));
        assert_eq!(iq2_bn_r4_bytes(4, 64), Some(80));
        assert_eq!(iq2_bn_r4_bytes(3, 64), None);
        assert_eq!(iq1_bn_bytes(3, 96), None);
        assert_eq!(iq2_bn_bytes(usize::MAX / 32, 64), None);
    }
}
