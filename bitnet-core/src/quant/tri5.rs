//! Five ternary weights in a byte, 1.6 bits each: I2_S codes once more, for decoding where memory is slower than
//! arithmetic. Made at load, never written to a file.
//!
//! ```text
//! chunk: 320 weights of one row in 64 bytes
//!   byte j = c[j] + 3 c[64 + j] + 9 c[128 + j] + 27 c[192 + j] + 81 c[256 + j]       codes 0, 1, 2 for -1, 0, +1
//! ```
//!
//! A row is padded to whole chunks with weights of zero. The highest digit of a byte comes off without a division: the
//! least of `b`, `b - 81` and `b - 162`, taken as bytes that wrap around, is the remainder below 81, since a difference
//! that wrapped is 94 or more. 27, 9 and 3 go the same way; a wide register may instead look up the four digits of that
//! remainder in a table of 81 entries.

use super::i2s;

/// Weights of a chunk.
pub const CHUNK: usize = 320;
/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = CHUNK / PLACES.len();
/// What each digit of a byte is worth.
pub const PLACES: [u8; 5] = [1, 3, 9, 27, 81];

/// Weights after which both chunks and blocks of I2_S begin anew.
const COMMON: usize = 640;

/// A ternary matrix `[rows, cols]` with five weights in a byte, without its scale.
#[derive(Debug, Clone, Copy)]
pub struct Tri5<'a> {
    codes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Tri5<'a> {
    /// A view of `codes`.
    ///
    /// # Panics
    /// If `codes` is not `rows` rows of [`row_bytes`].
    #[must_use]
    pub fn new(codes: &'a [u8], rows: usize, cols: usize) -> Self {
        assert_eq!(codes.len(), rows * row_bytes(cols), "bytes of a matrix [{rows}, {cols}]");
        Tri5 { codes, rows, cols }
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

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        row_bytes(self.cols)
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
    pub fn slice(&self, first: usize, n: usize) -> Tri5<'a> {
        let codes = &self.codes[first * self.row_bytes()..][..n * self.row_bytes()];
        Tri5 { codes, rows: n, cols: self.cols }
    }
}

/// Bytes of a row of `cols` weights.
#[must_use]
pub fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(CHUNK) * CHUNK_BYTES
}

/// Packs one row of I2_S codes.
///
/// # Panics
/// If `row` is not as long as the weights in `i2s` need.
#[inline(always)]
pub fn pack_row(row: &mut [u8], i2s: &[u8]) {
    assert_eq!(row.len(), row_bytes(i2s.len() * 4), "a row of {} weights", i2s.len() * 4);
    for (out, i2s) in row.chunks_mut(COMMON / 5).zip(i2s.chunks(COMMON / 4)) {
        let mut codes = [1; COMMON];
        for (block, codes) in i2s.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<{ i2s::BLOCK }>().0) {
            for j in 0..32 {
                for group in 0..4 {
                    codes[32 * group + j] = block[j] >> (6 - 2 * group) & 3;
                }
            }
        }
        for (out, codes) in out.as_chunks_mut::<CHUNK_BYTES>().0.iter_mut().zip(codes.as_chunks::<CHUNK>().0)
        {
            for j in 0..CHUNK_BYTES {
                out[j] = (0..5).fold(0, |sum, k| sum + PLACES[k] * codes[CHUNK_BYTES * k + j]);
            }
        }
    }
}

/// Turns one row back to I2_S codes.
///
/// # Panics
/// If `row` is not as long as the weights in `i2s` need.
#[inline(always)]
pub fn unpack_row(i2s: &mut [u8], row: &[u8]) {
    assert_eq!(row.len(), row_bytes(i2s.len() * 4), "a row of {} weights", i2s.len() * 4);
    for (i2s, row) in i2s.chunks_mut(COMMON / 4).zip(row.chunks(COMMON / 5)) {
        let mut codes = [1; COMMON];
        for (chunk, codes) in row.as_chunks::<CHUNK_BYTES>().0.iter().zip(codes.as_chunks_mut::<CHUNK>().0) {
            for j in 0..CHUNK_BYTES {
                let digits = digits(chunk[j]);
                for k in 0..5 {
                    codes[CHUNK_BYTES * k + j] = digits[k];
                }
            }
        }
        for (block, codes) in
            i2s.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<{ i2s::BLOCK }>().0)
        {
            for j in 0..32 {
                block[j] = codes[j] << 6 | codes[32 + j] << 4 | codes[64 + j] << 2 | codes[96 + j];
            }
        }
    }
}

/// The five codes of a byte.
#[inline(always)]
fn digits(byte: u8) -> [u8; 5] {
    let (mut digits, mut rest) = ([0; 5], byte);
    for k in (0..5).rev() {
        let place = PLACES[k];
        digits[k] = u8::from(rest >= place) + u8::from(rest >= 2 * place);
        rest -= place * digits[k];
    }
    digits
}

/// `sum(code * q)` of one row; the caller subtracts `sum(q)`.
#[inline(always)]
pub fn dot_row(row: &[u8], q: &[i8]) -> i32 {
    let mut sum = 0;
    for (chunk, q) in row.as_chunks::<CHUNK_BYTES>().0.iter().zip(q.chunks(CHUNK)) {
        let mut filled = [0; CHUNK];
        filled[..q.len()].copy_from_slice(q);
        for j in 0..CHUNK_BYTES {
            let digits = digits(chunk[j]);
            for k in 0..5 {
                sum += i32::from(digits[k]) * i32::from(filled[CHUNK_BYTES * k + j]);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_back() {
        for blocks in [1, 2, 3, 4, 5, 6, 10, 20, 54] {
            let weights: Vec<i8> = (0..blocks * 128_usize).map(|i| (i * i / 7 % 3) as i8 - 1).collect();
            let i2s = i2s::pack(&weights);
            let mut row = vec![0xff; row_bytes(weights.len())];
            pack_row(&mut row, &i2s);
            assert!(row.iter().all(|&b| b < 243));
            let mut back = vec![0xff; i2s.len()];
            unpack_row(&mut back, &row);
            assert_eq!(back, i2s, "{blocks} blocks");
            let q: Vec<i8> = (0..weights.len()).map(|i| (i * 37 % 255) as u8 as i8).collect();
            let expected: i32 = weights.iter().zip(&q).map(|(&w, &q)| i32::from(w + 1) * i32::from(q)).sum();
            assert_eq!(dot_row(&row, &q), expected, "{blocks} blocks");
        }
    }

    /// By hand: weights 0, 64, 128, 192 and 256 are +1, -1, 0, 0 and +1, so byte 0 is 2 + 0 + 9 + 27 + 162.
    #[test]
    fn a_byte_is_what_the_drawing_says() {
        let mut weights = [0; 384];
        (weights[0], weights[64], weights[256], weights[320]) = (1, -1, 1, -1);
        let mut row = [0; 128];
        pack_row(&mut row, &i2s::pack(&weights));
        assert_eq!((row[0], row[1], row[64], row[65]), (200, 121, 120, 121));
    }

    #[test]
    fn the_least_of_three_differences_is_the_rest() {
        for byte in 0..243_u8 {
            let rest = byte.min(byte.wrapping_sub(81)).min(byte.wrapping_sub(162));
            assert_eq!(rest, byte % 81);
            let digits = digits(byte);
            assert_eq!(byte, (0..5).map(|k| digits[k] * PLACES[k]).sum::<u8>());
        }
    }
}
