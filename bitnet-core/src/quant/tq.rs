//! TQ1_0 and TQ2_0: ternary, with a half-precision scale at the end of every block of 256 weights.
//!
//! ```text
//! TQ1_0, 54 bytes    qs[48] | qh[4] | d:f16          1.69 bits per weight, five (in qh four) digits to a byte
//!
//!   qs[m],    m in 0..32    digit n = weight n*32 + m           n in 0..5    weights   0..160
//!   qs[32+m], m in 0..16    digit n = weight 160 + n*16 + m     n in 0..5    weights 160..240
//!   qh[j],    j in 0..4     digit n = weight 240 + n*4 + j      n in 0..4    weights 240..256, fifth digit 0
//!
//! TQ2_0, 66 bytes    qs[64] | d:f16                  2.06 bits per weight
//!
//!   bits 2n..2n+2 of qs[32h+m] = weight 128h + 32n + m          h in 0..2, m in 0..32, n in 0..4
//! ```
//!
//! Digits and two-bit codes are weight + 1; the first digit weighs most. Layouts: llama.cpp.

use std::ops::Range;

use half::f16;

use super::codes::{CodeError, DIGITS, NO_DIGITS, check_codes, check_two_bits, five_digits, stored};

/// Weights that share a scale.
pub const BLOCK_LEN: usize = 256;
const TQ1_0_BYTES: usize = 54;
const TQ2_0_BYTES: usize = 66;

/// Bytes of a TQ1_0 tensor; `None` unless `cols` is a multiple of 256 and the product can be counted.
#[must_use]
pub fn tq1_0_bytes(rows: usize, cols: usize) -> Option<usize> {
    tensor_bytes(rows, cols, TQ1_0_BYTES)
}

/// Bytes of a TQ2_0 tensor; `None` unless `cols` is a multiple of 256 and the product can be counted.
#[must_use]
pub fn tq2_0_bytes(rows: usize, cols: usize) -> Option<usize> {
    tensor_bytes(rows, cols, TQ2_0_BYTES)
}

/// Some rows of a TQ1_0 tensor.
///
/// - `bytes`: the whole tensor, `tq1_0_bytes(rows, cols)`
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
/// - `scales`: `[range.len(), cols / 256]`, overwritten; one per block
///
/// # Errors
/// The first byte that holds no digits.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack_tq1_0(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
) -> Result<(), CodeError> {
    let first_row = range.start;
    unpack::<TQ1_0_BYTES>(bytes, rows, cols, range, codes, scales, |qs, codes| {
        for m in 0..32 {
            for (n, code) in DIGITS[usize::from(qs[m])].iter().enumerate() {
                codes[32 * n + m] = *code;
            }
        }
        for m in 0..16 {
            for (n, code) in DIGITS[usize::from(qs[32 + m])].iter().enumerate() {
                codes[160 + 16 * n + m] = *code;
            }
        }
        for j in 0..4 {
            let digits = DIGITS[usize::from(qs[48 + j])];
            for n in 0..4 {
                codes[240 + 4 * n + j] = if digits[4] == -1 { digits[n] } else { NO_DIGITS };
            }
        }
    });
    check_codes(codes, cols, first_row, |row, col, _| CodeError::Digits { row, col })
}

/// Some rows of a TQ2_0 tensor.
///
/// - `bytes`: the whole tensor, `tq2_0_bytes(rows, cols)`
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
/// - `scales`: `[range.len(), cols / 256]`, overwritten; one per block
///
/// # Errors
/// The first code 3.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack_tq2_0(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
) -> Result<(), CodeError> {
    let first_row = range.start;
    unpack::<TQ2_0_BYTES>(bytes, rows, cols, range, codes, scales, |qs, codes| {
        for h in 0..2 {
            for n in 0..4 {
                for m in 0..32 {
                    codes[128 * h + 32 * n + m] = ((qs[32 * h + m] >> (2 * n)) & 3) as i8 - 1;
                }
            }
        }
    });
    check_two_bits(codes, cols, first_row)
}

/// A TQ1_0 tensor.
///
/// - `codes`: `[rows, cols]`, each -1, 0 or +1
/// - `scales`: `[rows, cols / 256]`, one per block; kept in half precision, rounded to nearest even
///
/// # Panics
/// If a length disagrees, a code is not ternary, or `cols` is not a multiple of 256.
#[must_use]
pub fn pack_tq1_0(codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> Vec<u8> {
    pack::<TQ1_0_BYTES>(codes, rows, cols, scales, |codes, qs| {
        let byte = |n_digits: usize, at: &dyn Fn(usize) -> usize| {
            let v = (0..5).fold(0, |v, n| 3 * v + if n < n_digits { stored(codes[at(n)]) } else { 0 });
            five_digits(v)
        };
        for m in 0..32 {
            qs[m] = byte(5, &|n| 32 * n + m);
        }
        for m in 0..16 {
            qs[32 + m] = byte(5, &|n| 160 + 16 * n + m);
        }
        for j in 0..4 {
            qs[48 + j] = byte(4, &|n| 240 + 4 * n + j);
        }
    })
}

/// A TQ2_0 tensor.
///
/// - `codes`: `[rows, cols]`, each -1, 0 or +1
/// - `scales`: `[rows, cols / 256]`, one per block; kept in half precision, rounded to nearest even
///
/// # Panics
/// If a length disagrees, a code is not ternary, or `cols` is not a multiple of 256.
#[must_use]
pub fn pack_tq2_0(codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> Vec<u8> {
    pack::<TQ2_0_BYTES>(codes, rows, cols, scales, |codes, qs| {
        for (i, code) in codes.iter().enumerate() {
            qs[i / 128 * 32 + i % 32] |= stored(*code) << (i % 128 / 32 * 2);
        }
    })
}

fn tensor_bytes(rows: usize, cols: usize, block_bytes: usize) -> Option<usize> {
    rows.checked_mul(cols)?; // codes can be counted
    if !cols.is_multiple_of(BLOCK_LEN) {
        return None;
    }
    (cols / BLOCK_LEN).checked_mul(block_bytes)?.checked_mul(rows)
}

fn unpack<const BYTES: usize>(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [i8; BLOCK_LEN]),
) {
    assert_eq!(
        Some(bytes.len()),
        tensor_bytes(rows, cols, BYTES),
        "{} bytes for [{rows}, {cols}]",
        bytes.len()
    );
    assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
    assert_eq!(codes.len(), range.len() * cols, "codes for rows {range:?} of {cols}");
    assert_eq!(scales.len(), codes.len() / BLOCK_LEN, "scales for {} codes", codes.len());
    let row_bytes = cols / BLOCK_LEN * BYTES;
    let blocks = bytes[range.start * row_bytes..range.end * row_bytes].as_chunks::<BYTES>().0;
    for ((bytes, codes), scale) in blocks.iter().zip(codes.as_chunks_mut().0).zip(scales) {
        block(bytes, codes);
        *scale = f16::from_le_bytes([bytes[BYTES - 2], bytes[BYTES - 1]]).to_f32();
    }
}

fn pack<const BYTES: usize>(
    codes: &[i8],
    rows: usize,
    cols: usize,
    scales: &[f32],
    block: impl Fn(&[i8; BLOCK_LEN], &mut [u8; BYTES]),
) -> Vec<u8> {
    assert_eq!(Some(codes.len()), rows.checked_mul(cols), "{} codes for [{rows}, {cols}]", codes.len());
    let n_bytes = tensor_bytes(rows, cols, BYTES);
    let mut bytes = vec![0; n_bytes.expect("cols is a multiple of 256")];
    assert_eq!(scales.len(), codes.len() / BLOCK_LEN, "scales for {} codes", codes.len());
    for ((bytes, codes), scale) in bytes.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0).zip(scales) {
        block(codes, bytes);
        bytes[BYTES - 2..].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, row_splits};

    fn example() -> Vec<i8> {
        let mut codes = vec![0; 256];
        for (at, code) in [(0, 1), (32, -1), (160, 1), (240, -1), (255, 1)] {
            codes[at] = code;
        }
        codes
    }

    #[test]
    fn tq1_0_packs_the_worked_example() {
        let mut expected = vec![0x80u8; 54];
        expected[0] = 0xb9;
        expected[32] = 0xd5;
        expected[48..].copy_from_slice(&[0x2a, 0x7f, 0x7f, 0x82, 0x00, 0x3a]);
        assert_eq!(pack_tq1_0(&example(), 1, 256, &[0.75]), expected);
        let (mut codes, mut scales) = ([9; 256], [9.0]);
        unpack_tq1_0(&expected, 1, 256, 0..1, &mut codes, &mut scales).unwrap();
        assert_eq!((&codes[..], scales), (&example()[..], [0.75]));
    }

    #[test]
    fn tq2_0_packs_the_worked_example() {
        let mut expected = vec![0x55u8; 66];
        for (at, byte) in [(0, 0x52), (32, 0x59), (48, 0x15), (63, 0x95), (64, 0x00), (65, 0x3a)] {
            expected[at] = byte;
        }
        assert_eq!(pack_tq2_0(&example(), 1, 256, &[0.75]), expected);
        let (mut codes, mut scales) = ([9; 256], [9.0]);
        unpack_tq2_0(&expected, 1, 256, 0..1, &mut codes, &mut scales).unwrap();
        assert_eq!((&codes[..], scales), (&example()[..], [0.75]));
    }

    /// Where a weight of a TQ1_0 block lives: byte and digit, from the table rather than from loops.
    fn tq1_0_place(i: usize) -> (usize, u32) {
        match i {
            0..160 => (i % 32, i as u32 / 32),
            160..240 => (32 + (i - 160) % 16, (i as u32 - 160) / 16),
            _ => (48 + (i - 240) % 4, (i as u32 - 240) / 4),
        }
    }

    #[test]
    fn every_weight_is_where_the_table_says() {
        let mut rng = Rng(34);
        let codes = rng.codes(256);
        let one = pack_tq1_0(&codes, 1, 256, &[1.0]);
        let two = pack_tq2_0(&codes, 1, 256, &[1.0]);
        for (i, code) in codes.iter().enumerate() {
            let (byte, digit) = tq1_0_place(i);
            let fraction = (u32::from(one[byte]) * 3u32.pow(digit)) & 255;
            assert_eq!(((fraction * 3) >> 8) as i8 - 1, *code, "TQ1_0 weight {i}");
            let (h, n, m) = (i / 128, i % 128 / 32, i % 32);
            assert_eq!(((two[32 * h + m] >> (2 * n)) & 3) as i8 - 1, *code, "TQ2_0 weight {i}");
        }
    }

    #[test]
    fn what_was_packed_is_unpacked_rows_split_anywhere() {
        let mut rng = Rng(35);
        for (rows, cols) in [(1, 256), (3, 512), (7, 768), (2, 0), (0, 256)] {
            let codes = rng.codes(rows * cols);
            // Half precision holds these exactly.
            let scales: Vec<f32> = (0..rows * cols / 256).map(|_| rng.below(2048) as f32 / 64.0).collect();
            let one = pack_tq1_0(&codes, rows, cols, &scales);
            let two = pack_tq2_0(&codes, rows, cols, &scales);
            for range in row_splits(rows) {
                let part = range.start * cols..range.end * cols;
                let scale_part = range.start * cols / 256..range.end * cols / 256;
                let (mut c, mut s) = (vec![9; part.len()], vec![9.0; scale_part.len()]);
                unpack_tq1_0(&one, rows, cols, range.clone(), &mut c, &mut s).unwrap();
                assert_eq!((&c[..], &s[..]), (&codes[part.clone()], &scales[scale_part.clone()]));
                c.fill(9);
                unpack_tq2_0(&two, rows, cols, range, &mut c, &mut s).unwrap();
                assert_eq!((&c[..], &s[..]), (&codes[part], &scales[scale_part]));
            }
        }
    }

    #[test]
    fn a_byte_nobody_packs_is_named() {
        let (mut codes, mut scales) = (vec![0; 1024], vec![0.0; 4]);
        let mut bytes = pack_tq1_0(&codes, 2, 512, &scales);
        let hole = (0..=255u8).find(|b| (0..243).all(|v| five_digits(v) != *b)).unwrap();
        bytes[3 * 54 + 5] = hole; // row 1, second block
        let error = unpack_tq1_0(&bytes, 2, 512, 0..2, &mut codes, &mut scales).unwrap_err();
        assert_eq!(error, CodeError::Digits { row: 1, col: 256 + 5 });
        unpack_tq1_0(&bytes, 2, 512, 0..1, &mut codes[..512], &mut scales[..2]).unwrap();
        bytes[3 * 54 + 5] = 0x80;
        bytes[3 * 54 + 49] = 0x80; // five digits of 1, where the fifth must be 0
        let error = unpack_tq1_0(&bytes, 2, 512, 1..2, &mut codes[..512], &mut scales[..2]).unwrap_err();
        assert_eq!(error, CodeError::Digits { row: 1, col: 256 + 241 });
    }

    #[test]
    fn code_three_is_named() {
        let (mut codes, mut scales) = (vec![0; 512], vec![0.0; 2]);
        let mut bytes = pack_tq2_0(&codes, 2, 256, &scales);
        bytes[66 + 32 + 4] |= 3 << 6;
        let error = unpack_tq2_0(&bytes, 2, 256, 1..2, &mut codes[..256], &mut scales[..1]).unwrap_err();
        assert_eq!(error, CodeError::Code { row: 1, col: 128 + 96 + 4, found: 3, max: 2 });
    }

    #[test]
    fn sizes_are_whole_blocks_or_nothing() {
        assert_eq!(tq1_0_bytes(2560, 6912), Some(2560 * 27 * 54));
        assert_eq!(tq2_0_bytes(3, 512), Some(3 * 132));
        assert_eq!(tq1_0_bytes(1, 128), None);
        assert_eq!(tq2_0_bytes(usize::MAX, 256), None);
    }
}
