//! The other I2_S: layout B, as ARM builds of bitnet.cpp have written it since late 2025.
//!
//! Both layouts have the same type number, the same size and the same scale at the same place, and nothing in
//! a file says which one it is; layout A (`i2s`) is the rule, B must be asked for. Here B is read, written,
//! and turned into A and back.
//!
//! ```text
//! layout A    block = 128 weights = 32 bytes      bits 6-2g..8-2g of byte j = weight 32g + j     g in 0..4
//! layout B    block =  64 weights = 16 bytes      bits 6-2g..8-2g of byte j = weight 16g + j     g in 0..4
//!
//! tensor      rows*cols/4 bytes of blocks | scale:f32 | 28 bytes of anything
//! ```
//!
//! Two-bit codes are weight + 1; the first group sits in the top bits. Source: bitnet.cpp, `quantize_i2_s`.

use std::ops::Range;

use super::codes::{CodeError, check_two_bits, stored};

/// Weights in a block of layout B.
pub const BLOCK_LEN_B: usize = 64;
const BLOCK_BYTES_B: usize = 16;
const TAIL_BYTES: usize = 32;

/// Bytes of a layout B tensor, its tail included; `None` unless `cols` is a multiple of 64 and the sum can be
/// counted.
#[must_use]
pub fn i2s_b_bytes(rows: usize, cols: usize) -> Option<usize> {
    if cols.is_multiple_of(BLOCK_LEN_B) {
        (rows.checked_mul(cols)? / 4).checked_add(TAIL_BYTES)
    } else {
        None
    }
}

/// The scale of an I2_S tensor of either layout: the first four bytes of its tail.
///
/// # Panics
/// If `bytes` is shorter than a tail.
#[must_use]
pub fn i2s_scale(bytes: &[u8]) -> f32 {
    assert!(bytes.len() >= TAIL_BYTES, "{} bytes for a tail of {TAIL_BYTES}", bytes.len());
    f32::from_le_bytes(bytes[bytes.len() - TAIL_BYTES..].as_chunks().0[0])
}

/// Some rows of a layout B tensor.
///
/// - `bytes`: the whole tensor, `i2s_b_bytes(rows, cols)`
/// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
///
/// # Errors
/// The first code 3.
///
/// # Panics
/// If a length disagrees with the above, or `range` ends beyond `rows`.
pub fn unpack_i2s_b(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    range: Range<usize>,
    codes: &mut [i8],
) -> Result<(), CodeError> {
    assert_eq!(Some(bytes.len()), i2s_b_bytes(rows, cols), "{} bytes for [{rows}, {cols}]", bytes.len());
    assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
    assert_eq!(codes.len(), range.len() * cols, "codes for rows {range:?} of {cols}");
    let blocks = bytes[range.start * (cols / 4)..range.end * (cols / 4)].as_chunks::<BLOCK_BYTES_B>().0;
    for (block, codes) in blocks.iter().zip(codes.as_chunks_mut::<BLOCK_LEN_B>().0) {
        for g in 0..4 {
            for j in 0..16 {
                codes[16 * g + j] = ((block[j] >> (6 - 2 * g)) & 3) as i8 - 1;
            }
        }
    }
    check_two_bits(codes, cols, range.start)
}

/// A layout B tensor, the tail filled with zeros behind its scale.
///
/// - `codes`: `[rows, cols]`, each -1, 0 or +1
///
/// # Panics
/// If a length disagrees, a code is not ternary, or `cols` is not a multiple of 64.
#[must_use]
pub fn pack_i2s_b(codes: &[i8], rows: usize, cols: usize, scale: f32) -> Vec<u8> {
    assert_eq!(Some(codes.len()), rows.checked_mul(cols), "{} codes for [{rows}, {cols}]", codes.len());
    let mut bytes = Vec::with_capacity(i2s_b_bytes(rows, cols).expect("cols is a multiple of 64"));
    for block in codes.as_chunks::<BLOCK_LEN_B>().0 {
        for j in 0..16 {
            bytes.push((0..4).fold(0, |byte, g| byte << 2 | stored(block[16 * g + j])));
        }
    }
    bytes.extend(scale.to_le_bytes());
    bytes.resize(bytes.len() + TAIL_BYTES - 4, 0);
    bytes
}

/// Turns blocks of layout B into blocks of layout A: the same weights in the same 32 bytes per 128. A code 3
/// stays one.
///
/// - `blocks`: whole rows without the tail, overwritten; rows of a multiple of 128 weights
///
/// # Panics
/// If `blocks` is not a multiple of 32 bytes.
pub fn b_to_a(blocks: &mut [u8]) {
    for block in whole_blocks(blocks) {
        let b = *block;
        for j in 0..32 {
            // Group g of A is weights 32g..32g+32: groups 2g and 2g+1 of B, counted over both its blocks.
            let code = |g: usize| {
                let group = 2 * g + j / 16;
                (b[group / 4 * 16 + j % 16] >> (6 - 2 * (group % 4))) & 3
            };
            block[j] = (0..4).fold(0, |byte, g| byte << 2 | code(g));
        }
    }
}

/// Turns blocks of layout A into blocks of layout B: [`b_to_a`] backwards.
///
/// # Panics
/// If `blocks` is not a multiple of 32 bytes.
pub fn a_to_b(blocks: &mut [u8]) {
    for block in whole_blocks(blocks) {
        let a = *block;
        for j in 0..32 {
            // Group g of this block of B is half a group of A.
            let code = |g: usize| {
                let group = j / 16 * 4 + g;
                (a[group % 2 * 16 + j % 16] >> (6 - 2 * (group / 2))) & 3
            };
            block[j] = (0..4).fold(0, |byte, g| byte << 2 | code(g));
        }
    }
}

fn whole_blocks(blocks: &mut [u8]) -> &mut [[u8; 32]] {
    let (whole, rest) = blocks.as_chunks_mut();
    assert!(rest.is_empty(), "{} bytes after the last whole block", rest.len());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, row_splits};

    fn example() -> Vec<i8> {
        let mut codes = vec![0; 128];
        for (at, code) in [(0, 1), (1, -1), (32, -1), (64, 1), (96, 1), (127, -1)] {
            codes[at] = code;
        }
        codes
    }

    fn example_a() -> [u8; 32] {
        let mut bytes = [0x55; 32];
        (bytes[0], bytes[1], bytes[31]) = (0x8a, 0x15, 0x54);
        bytes
    }

    fn example_b() -> [u8; 32] {
        let mut bytes = [0x55; 32];
        (bytes[0], bytes[1], bytes[16], bytes[31]) = (0x91, 0x15, 0x99, 0x54);
        bytes
    }

    #[test]
    fn layout_b_packs_the_worked_example() {
        let mut expected = example_b().to_vec();
        expected.extend([0x00, 0x00, 0x40, 0x3f]);
        expected.extend([0; 28]);
        assert_eq!(pack_i2s_b(&example(), 1, 128, 0.75), expected);
        assert_eq!(pack_i2s_b(&example(), 2, 64, 0.75), expected);
        expected[36..].fill(0xee); // whatever a writer left there
        let mut codes = [9; 128];
        unpack_i2s_b(&expected, 1, 128, 0..1, &mut codes).unwrap();
        assert_eq!((&codes[..], i2s_scale(&expected)), (&example()[..], 0.75));
    }

    #[test]
    fn the_worked_example_crosses_both_ways() {
        let mut bytes = example_b();
        b_to_a(&mut bytes);
        assert_eq!(bytes, example_a());
        a_to_b(&mut bytes);
        assert_eq!(bytes, example_b());
    }

    /// One code from its closed form; `block` is 128 for layout A and 64 for layout B.
    fn code_at(bytes: &[u8], e: usize, block: usize) -> i8 {
        let group = block / 4;
        ((bytes[e / block * group + e % group] >> (6 - 2 * (e % block / group))) & 3) as i8 - 1
    }

    #[test]
    fn every_byte_pattern_crosses_without_moving_a_weight() {
        let mut rng = Rng(64);
        let b: Vec<u8> = (0..320).map(|_| rng.next() as u8).collect();
        let mut a = b.clone();
        b_to_a(&mut a);
        for e in 0..4 * b.len() {
            assert_eq!(code_at(&a, e, 128), code_at(&b, e, 64), "weight {e}");
        }
        a_to_b(&mut a);
        assert_eq!(a, b);
    }

    #[test]
    fn what_was_packed_is_unpacked_rows_split_anywhere() {
        let mut rng = Rng(36);
        for (rows, cols) in [(1, 64), (3, 192), (5, 8640), (2, 0), (0, 64)] {
            let codes = rng.codes(rows * cols);
            let bytes = pack_i2s_b(&codes, rows, cols, 1.5);
            assert_eq!(Some(bytes.len()), i2s_b_bytes(rows, cols));
            assert!(codes.iter().enumerate().all(|(e, code)| code_at(&bytes, e, 64) == *code));
            for range in row_splits(rows) {
                let part = range.start * cols..range.end * cols;
                let mut read = vec![9; part.len()];
                unpack_i2s_b(&bytes, rows, cols, range, &mut read).unwrap();
                assert_eq!(read, codes[part]);
            }
        }
    }

    #[test]
    fn code_three_is_named() {
        let mut bytes = pack_i2s_b(&[0; 3 * 128], 3, 128, 1.0);
        bytes[32 + 16 + 7] = 0x5d; // row 1, second block, group 2
        let error = unpack_i2s_b(&bytes, 3, 128, 0..3, &mut [0; 384]).unwrap_err();
        assert_eq!(error, CodeError::Code { row: 1, col: 64 + 32 + 7, found: 3, max: 2 });
        unpack_i2s_b(&bytes, 3, 128, 2..3, &mut [0; 128]).unwrap();
    }

    #[test]
    fn sizes_are_whole_blocks_or_nothing() {
        assert_eq!(i2s_b_bytes(3200, 8640), Some(3200 * 8640 / 4 + 32));
        assert_eq!(i2s_b_bytes(1, 96), None);
        assert_eq!(i2s_b_bytes(usize::MAX, 64), None);
    }
}
