//! What the ternary formats share: how a bad code is reported, five digits in a byte, and scales that agree.
//!
//! Every format unpacks to *codes*, `i8` in -1, 0, +1, row by row, and to the scales its bytes carry; a
//! weight is `code * scale`. A format may be asked for any range of rows, so that nobody needs a whole matrix
//! in memory.

use std::fmt;

/// Bytes that stand for no ternary weight. Rows and columns count from zero in the whole tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeError {
    /// A code above the largest that the format gives a meaning.
    Code {
        /// Row of the first weight concerned.
        row: usize,
        /// Its column.
        col: usize,
        /// The code.
        found: u8,
        /// The largest with a meaning.
        max: u8,
    },
    /// A byte that is no rounded-up five-digit fraction in base 3, so no writer wrote it.
    Digits {
        /// Row of the first weight concerned.
        row: usize,
        /// Its column.
        col: usize,
    },
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeError::Code { row, col, found, max } => {
                write!(f, "row {row}, column {col}: expected a code of at most {max}, found {found}")
            }
            CodeError::Digits { row, col } => {
                write!(
                    f,
                    "row {row}, column {col}: expected five base-3 digits, found a byte that holds none"
                )
            }
        }
    }
}

impl std::error::Error for CodeError {}

/// The scale that all of these are, to the bit; `None` if two differ, or there is none. Scales that differ
/// are never averaged: that would be another model.
#[must_use]
pub fn uniform_scale(scales: &[f32]) -> Option<f32> {
    let first = *scales.first()?;
    scales.iter().all(|s| s.to_bits() == first.to_bits()).then_some(first)
}

/// The first code above +1 in rows of `cols`, handed to `report` with row, column and the code itself.
/// Unpackers write something above +1 where the bytes mean nothing, and look for it afterwards, out of the
/// inner loop.
pub(super) fn check_codes(
    codes: &[i8],
    cols: usize,
    first_row: usize,
    report: impl Fn(usize, usize, u8) -> CodeError,
) -> Result<(), CodeError> {
    if codes.iter().fold(0, |max, c| max.max(*c)) <= 1 {
        return Ok(());
    }
    let at = codes.iter().position(|c| *c > 1).expect("the largest code is among the codes");
    Err(report(first_row + at / cols, at % cols, codes[at] as u8))
}

/// [`check_codes`] for two bits per weight, stored as code + 1, where 3 has no meaning.
pub(super) fn check_two_bits(codes: &[i8], cols: usize, first_row: usize) -> Result<(), CodeError> {
    check_codes(codes, cols, first_row, |row, col, code| CodeError::Code {
        row,
        col,
        found: code + 1,
        max: 2,
    })
}

/// The stored form of a code: 0, 1 or 2.
///
/// # Panics
/// If it is not -1, 0 or +1.
pub(super) fn stored(code: i8) -> u8 {
    assert!((-1..=1).contains(&code), "code {code} is not ternary");
    (code + 1) as u8
}

/// Five base-3 digits as a byte: the fraction `v / 243` in 256ths, rounded up. `v` has the first digit on
/// top.
///
/// Reading multiplies: `3 * byte` carries the first digit into bits 8 and 9 and leaves the rest of the
/// fraction below; rounding up keeps the error below 1/243 of a turn, so no digit is ever short.
pub(super) const fn five_digits(v: u8) -> u8 {
    debug_assert!(v < 243);
    (v as u16 * 256).div_ceil(243) as u8
}

/// The five codes of a byte, first digit first; [`NO_DIGITS`] in all five for the 13 bytes that nothing packs
/// to.
pub(super) static DIGITS: [[i8; 5]; 256] = {
    let mut table = [[NO_DIGITS; 5]; 256];
    let mut v = 0;
    while v < 243 {
        let mut fraction = five_digits(v) as u16;
        let mut digit = 0;
        while digit < 5 {
            fraction *= 3;
            table[five_digits(v) as usize][digit] = (fraction >> 8) as i8 - 1;
            fraction &= 255;
            digit += 1;
        }
        v += 1;
    }
    table
};

/// Stands where a byte holds no digits; any number above +1 would do.
pub(super) const NO_DIGITS: i8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_byte_are_those_it_was_made_of() {
        let mut reached = [false; 256];
        for v in 0..243u8 {
            let byte = usize::from(five_digits(v));
            let digits = [v / 81, v / 27 % 3, v / 9 % 3, v / 3 % 3, v % 3].map(|d| d as i8 - 1);
            assert_eq!(DIGITS[byte], digits, "v = {v}");
            assert!(!std::mem::replace(&mut reached[byte], true));
        }
        for (byte, reached) in reached.iter().enumerate() {
            assert!(*reached || DIGITS[byte] == [NO_DIGITS; 5], "byte {byte}");
        }
    }

    #[test]
    fn scales_agree_to_the_bit_or_not_at_all() {
        assert_eq!(uniform_scale(&[0.75, 0.75, 0.75]), Some(0.75));
        assert_eq!(uniform_scale(&[0.75, f32::from_bits(0.75f32.to_bits() + 1)]), None);
        assert_eq!(uniform_scale(&[0.0, -0.0]), None);
        assert_eq!(uniform_scale(&[]), None);
    }

    /// All formats in one place: a format without a line here is not trusted with a file.
    #[test]
    fn arbitrary_bytes_give_ternary_codes_or_an_error() {
        use crate::quant::tl_tiles::TileConfig;
        use crate::quant::{hf_packed, i2s_layouts, iq_bn, tl1, tl2, tq};
        const ROWS: usize = 32;
        const COLS: usize = 256;
        type Unpack = Box<dyn Fn(&[u8], &mut [i8]) -> Result<(), CodeError>>;

        let tl1 = tl1::Layout::new(ROWS, COLS, TileConfig { bm: 32, bk: 64, bmm: 32 }).unwrap();
        let tl2 = tl2::Layout::new(ROWS, COLS, TileConfig { bm: 32, bk: 96, bmm: 32 }).unwrap();
        let scaled = |unpack: fn(&[u8], usize, usize, _, &mut [i8], &mut [f32]) -> _| -> Unpack {
            Box::new(move |b, c| unpack(b, ROWS, COLS, 0..ROWS, c, &mut [0.0; ROWS]))
        };
        let zeros = [0; ROWS * COLS];
        let two_bits = vec![0x55; ROWS * COLS / 4];
        let formats: [(&str, Vec<u8>, Unpack); 9] = [
            ("TQ1_0", tq::pack_tq1_0(&zeros, ROWS, COLS, &[1.0; ROWS]), scaled(tq::unpack_tq1_0)),
            ("TQ2_0", tq::pack_tq2_0(&zeros, ROWS, COLS, &[1.0; ROWS]), scaled(tq::unpack_tq2_0)),
            ("IQ1_BN", iq_bn::pack_iq1_bn(&zeros, ROWS, COLS, &[1.0; ROWS]), scaled(iq_bn::unpack_iq1_bn)),
            ("IQ2_BN", iq_bn::pack_iq2_bn(&zeros, ROWS, COLS, &[1.0; ROWS]), scaled(iq_bn::unpack_iq2_bn)),
            ("IQ2_BN_R4", vec![0x55; ROWS * (4 + COLS / 4)], scaled(iq_bn::unpack_iq2_bn_r4)),
            (
                "I2_S, layout B",
                i2s_layouts::pack_i2s_b(&zeros, ROWS, COLS, 1.0),
                Box::new(|b, c| i2s_layouts::unpack_i2s_b(b, ROWS, COLS, 0..ROWS, c)),
            ),
            ("TL1", tl1.pack(&zeros, 1.0), Box::new(move |b, c| tl1.unpack(b, 0..ROWS, c))),
            ("TL2", tl2.pack(&zeros, 1.0), Box::new(move |b, c| tl2.unpack(b, 0..ROWS, c))),
            ("Hugging Face", two_bits, Box::new(|b, c| hf_packed::unpack(b, ROWS, COLS, 0..ROWS, c))),
        ];
        let mut rng = crate::quant::testing::Rng(7);
        for (name, clean, unpack) in formats {
            let (mut sound, mut refused) = (0, 0);
            for round in 0..200usize {
                let mut bytes = clean.clone();
                // A hundred times one wild byte, then more and more.
                for _ in 0..=round.saturating_sub(100) {
                    let at = rng.below(bytes.len());
                    bytes[at] = rng.next() as u8;
                }
                let mut codes = vec![9; ROWS * COLS];
                match unpack(&bytes, &mut codes) {
                    Ok(()) => {
                        assert!(codes.iter().all(|c| (-1..=1).contains(c)), "{name}");
                        sound += 1;
                    }
                    Err(CodeError::Code { row, col, .. } | CodeError::Digits { row, col }) => {
                        assert!(row < ROWS && col < COLS && codes[row * COLS + col] > 1, "{name}");
                        refused += 1;
                    }
                }
            }
            assert!(sound > 0 && refused > 0, "{name}: {sound} sound, {refused} refused");
        }
    }
}
