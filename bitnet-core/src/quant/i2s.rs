//! I2_S: ternary weights, two bits each, one f32 scale for the whole tensor.
//!
//! ```text
//! tensor bytes = rows * cols / 4 codes, then the scale (f32), then 28 bytes of filler that may hold anything
//!
//! block: 128 weights of one row in 32 bytes
//!                bits 7-6    bits 5-4    bits 3-2    bits 1-0
//!   byte 0       w[0]        w[32]       w[64]       w[96]
//!   byte 1       w[1]        w[33]       w[65]       w[97]
//!   ...
//!   byte 31      w[31]       w[63]       w[95]       w[127]
//!
//! code 0 is -1, 1 is 0, 2 is +1; 3 is never written
//! ```
//!
//! This is the order every x86 build of bitnet.cpp writes, and the published 2B-4T file holds. One file format,
//! two flavours for the kernels, told apart by the row length: [`Flavour::Qk256`] rows are whole runs of 256
//! weights (64 bytes, one wide register), [`Flavour::I2s`] rows are only whole 128s.

/// Weights in a block.
pub const BLOCK: usize = 128;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK / 4;
/// Bytes after the codes: the scale and its filler.
pub const TAIL_BYTES: usize = 32;

/// Which width of kernel a row length lets run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Rows are whole runs of 256 weights.
    Qk256,
    /// Rows are whole runs of 128 weights, with a half run at the end.
    I2s,
}

impl Flavour {
    /// The flavour of rows of `cols` weights, or `None` when they are not whole blocks.
    #[must_use]
    pub fn of(cols: usize) -> Option<Flavour> {
        match cols {
            0 => None,
            _ if cols.is_multiple_of(2 * BLOCK) => Some(Flavour::Qk256),
            _ if cols.is_multiple_of(BLOCK) => Some(Flavour::I2s),
            _ => None,
        }
    }

    /// The name in trace lines and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Qk256 => "QK256",
            Flavour::I2s => "I2_S",
        }
    }
}

/// A ternary matrix `[rows, cols]` as packed bytes, without its scale.
#[derive(Debug, Clone, Copy)]
pub struct Ternary<'a> {
    codes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Ternary<'a> {
    /// A view of `codes`, which should be 0 to 2: what a 3 is multiplied to is up to the kernel.
    ///
    /// # Panics
    /// If `cols` is not a multiple of [`BLOCK`], or `codes` is not `rows * cols / 4` bytes.
    #[must_use]
    pub fn new(codes: &'a [u8], rows: usize, cols: usize) -> Self {
        assert!(cols.is_multiple_of(BLOCK), "ternary rows of {cols} weights are not whole blocks of {BLOCK}");
        assert_eq!(codes.len(), rows * (cols / 4), "bytes of a ternary matrix [{rows}, {cols}]");
        Ternary { codes, rows, cols }
    }

    /// Number of rows (outputs).
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs), a multiple of [`BLOCK`].
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.cols / 4
    }

    /// All packed bytes, row after row.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.codes
    }

    /// The packed bytes of row `r`.
    #[must_use]
    pub fn row(&self, r: usize) -> &'a [u8] {
        &self.codes[r * self.row_bytes()..][..self.row_bytes()]
    }

    /// Rows `first .. first + n` as a matrix of their own.
    #[must_use]
    pub fn slice(&self, first: usize, n: usize) -> Ternary<'a> {
        Ternary {
            codes: &self.codes[first * self.row_bytes()..][..n * self.row_bytes()],
            rows: n,
            cols: self.cols,
        }
    }
}

/// The code of weight `k` (0..128) of `block`: 0, 1, 2 for -1, 0, +1.
#[must_use]
pub fn code(block: &[u8], k: usize) -> u8 {
    (block[k % 32] >> (6 - 2 * (k / 32))) & 3
}

/// Unpacks one row to codes 0, 1, 2 in index order.
///
/// # Panics
/// If `codes` is not four times as long as `row`, or `row` is not whole blocks.
pub fn unpack_codes(row: &[u8], codes: &mut [u8]) {
    assert_eq!(codes.len(), row.len() * 4, "codes of {} packed bytes", row.len());
    assert!(row.len().is_multiple_of(BLOCK_BYTES), "{} bytes are not whole blocks", row.len());
    for (block, out) in row.chunks_exact(BLOCK_BYTES).zip(codes.chunks_exact_mut(BLOCK)) {
        for k in 0..BLOCK {
            out[k] = code(block, k);
        }
    }
}

/// Packs ternary values -1, 0, +1, row after row, without the tail.
///
/// # Panics
/// If the number of weights is not a multiple of [`BLOCK`], or a weight is not ternary.
#[must_use]
pub fn pack(weights: &[i8]) -> Vec<u8> {
    assert!(weights.len().is_multiple_of(BLOCK), "{} weights are not whole blocks", weights.len());
    let mut bytes = vec![0; weights.len() / 4];
    for (block, out) in weights.chunks_exact(BLOCK).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
        for (k, &w) in block.iter().enumerate() {
            assert!((-1..=1).contains(&w), "{w} is not a ternary weight");
            out[k % 32] |= ((w + 1) as u8) << (6 - 2 * (k / 32));
        }
    }
    bytes
}

/// The 32 bytes that follow the codes of a tensor with this `scale`.
#[must_use]
pub fn tail(scale: f32) -> [u8; TAIL_BYTES] {
    let mut tail = [0; TAIL_BYTES];
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    tail
}

/// Splits a tensor's bytes into codes and scale; `None` when the length is not `n_weights / 4 + 32`.
#[must_use]
pub fn split_tensor(bytes: &[u8], n_weights: usize) -> Option<(&[u8], f32)> {
    let n = n_weights / 4;
    if bytes.len() != n.checked_add(TAIL_BYTES)? {
        return None;
    }
    let (codes, tail) = bytes.split_at(n);
    Some((codes, f32::from_le_bytes(*tail.first_chunk()?)))
}

/// Index of the first byte that holds the invalid code 3.
#[must_use]
pub fn find_code_3(codes: &[u8]) -> Option<usize> {
    let holds_3 = |b: u8| b & (b >> 1) & 0x55;
    // Whole pieces first, without a branch for each byte: sound tensors are searched as fast as memory is read.
    const PIECE: usize = 4096;
    let piece =
        codes.chunks(PIECE).position(|piece| piece.iter().fold(0, |any, &b| any | holds_3(b)) != 0)?;
    let start = piece * PIECE;
    Some(start + codes[start..].iter().position(|&b| holds_3(b) != 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// w0 = +, w1 = -, w32 = -, w64 = +, w96 = +, w127 = -, others 0; scale 0.75. The bytes are those of an
    /// independent packer: `8a 15 55 ... 55 54 | 00 00 40 3f`.
    #[test]
    fn the_worked_example_is_reproduced_byte_for_byte() {
        let mut w = [0_i8; 128];
        for (k, v) in [(0, 1), (1, -1), (32, -1), (64, 1), (96, 1), (127, -1)] {
            w[k] = v;
        }
        let mut expected = vec![0x55; 32];
        (expected[0], expected[1], expected[31]) = (0x8a, 0x15, 0x54);
        assert_eq!(pack(&w), expected);
        assert_eq!(tail(0.75)[..4], [0x00, 0x00, 0x40, 0x3f]);

        expected.extend_from_slice(&tail(0.75));
        let (codes, scale) = split_tensor(&expected, 128).unwrap();
        let mut unpacked = [9; 128];
        unpack_codes(codes, &mut unpacked);
        assert_eq!(scale, 0.75);
        assert!(unpacked.iter().zip(&w).all(|(&c, &w)| c as i8 - 1 == w));
    }

    #[test]
    fn row_lengths_choose_the_flavour() {
        assert_eq!(Flavour::of(2560), Some(Flavour::Qk256));
        assert_eq!(Flavour::of(3200), Some(Flavour::I2s));
        assert_eq!(Flavour::of(8640), None);
        assert_eq!(Flavour::of(0), None);
    }

    #[test]
    fn code_3_is_found_wherever_it_hides() {
        for (shift, at) in [(0, 41), (2, 4095), (4, 4096), (6, 9000)] {
            let mut codes = pack(&[1; 36_096]);
            assert_eq!(find_code_3(&codes), None);
            codes[at] |= 3 << shift;
            codes[9001] |= 3;
            assert_eq!(find_code_3(&codes), Some(at));
        }
    }

    #[test]
    fn a_tensor_of_another_length_is_refused() {
        assert!(split_tensor(&[0; 63], 128).is_none());
        assert!(split_tensor(&[0; 65], 128).is_none());
    }
}
