//! Blocks of 32 weights with a half-precision scale in front.
//!
//! ```text
//! Q8_0    d:f16 | 32 x i8                           d * q
//! Q4_0    d:f16 | 16 bytes of nibbles               d * (n - 8)
//! Q4_1    d:f16 | m:f16 | 16 bytes of nibbles       d * n + m
//! Q5_0    d:f16 | h:u32 | 16 bytes of nibbles       d * (n + 16*bit - 16)
//! Q5_1    d:f16 | m:f16 | h:u32 | 16 nibble bytes   d * (n + 16*bit) + m
//! IQ4_NL  d:f16 | 16 bytes of nibbles               d * TABLE[n]
//! ```
//!
//! Nibbles: weight j in 0..16 is the low half of byte j, weight j + 16 its high half. Bit j of `h` is the
//! fifth bit of weight j.

use half::f16;

use super::half_at;

/// What the nibbles of IQ4_NL stand for: steps that widen away from zero.
const IQ4_NL_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for j in 0..32 {
        out[j] = d * f32::from(block[2 + j] as i8);
    }
}

pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |_, n| d * (f32::from(n) - 8.0));
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |_, n| d * f32::from(n) + m);
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], out, |j, n| d * (f32::from(n | fifth_bit(high, j)) - 16.0));
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], out, |j, n| d * f32::from(n | fifth_bit(high, j)) + m);
}

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |_, n| d * f32::from(IQ4_NL_VALUES[usize::from(n)]));
}

/// `out[j] = value(j, nibble j)` for the 32 nibbles of 16 bytes.
fn nibbles(bytes: &[u8], out: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    for j in 0..16 {
        out[j] = value(j, bytes[j] & 15);
        out[j + 16] = value(j + 16, bytes[j] >> 4);
    }
}

fn fifth_bit(high: u32, j: usize) -> u8 {
    (((high >> j) & 1) << 4) as u8
}

/// `d = max|x| / 127`, integers rounded half away from zero against the unrounded `d`, then `d` kept as f16.
pub(super) fn quantize_q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = absmax / 127.0;
    // A block so small that 1/d overflows is zero in f16 anyway.
    let inv_d = if d == 0.0 || (1.0 / d).is_infinite() { 0.0 } else { 1.0 / d };
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for j in 0..32 {
        block[2 + j] = (x[j] * inv_d).round() as i8 as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DenseType, dequantize_row, quantize_row};
    use super::*;
    use crate::quant::testing::Rng;

    fn read(ty: DenseType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; bytes.len() / ty.block_bytes() * ty.block_len()];
        dequantize_row(ty, bytes, &mut out);
        out
    }

    #[test]
    fn q8_0_reads_a_signed_byte_times_the_scale() {
        let mut block = [0u8; 34];
        block[..3].copy_from_slice(&[0x00, 0x38, 0xfd]); // d = 0.5, q = -3
        block[33] = 0x80;
        let out = read(DenseType::Q8_0, &block);
        assert_eq!((out[0], out[1], out[31]), (-1.5, 0.0, -64.0));
    }

    #[test]
    fn q4_0_splits_a_byte_between_weights_sixteen_apart() {
        let mut block = [0x88u8; 18];
        block[..3].copy_from_slice(&[0x00, 0x38, 0x9a]); // d = 0.5
        let out = read(DenseType::Q4_0, &block);
        assert_eq!((out[0], out[16]), (1.0, 0.5));
        assert!(out.iter().enumerate().all(|(j, v)| j % 16 == 0 || *v == 0.0));
    }

    #[test]
    fn q4_1_adds_its_minimum() {
        let mut block = [0u8; 20];
        block[..5].copy_from_slice(&[0x00, 0x38, 0x00, 0xbc, 0x9a]); // d = 0.5, m = -1
        let out = read(DenseType::Q4_1, &block);
        assert_eq!((out[0], out[16], out[1]), (10.0 * 0.5 - 1.0, 9.0 * 0.5 - 1.0, -1.0));
    }

    #[test]
    fn q5_formats_take_their_fifth_bit_from_the_word() {
        let mut block = [0u8; 22];
        block[..2].copy_from_slice(&[0x00, 0x38]); // d = 0.5
        block[2..6].copy_from_slice(&0x8002_0001u32.to_le_bytes()); // weights 0, 17 and 31
        block[6] = 0x53;
        block[7] = 0x70;
        let out = read(DenseType::Q5_0, &block);
        // 3+16, nothing, 5, 7+16, 0+16; then minus 16, halved
        assert_eq!((out[0], out[1], out[16], out[17], out[31]), (1.5, -8.0, -5.5, 3.5, 0.0));

        let mut with_min = vec![0x00, 0x38, 0x00, 0xbc]; // m = -1
        with_min.extend_from_slice(&block[2..]);
        let out = read(DenseType::Q5_1, &with_min);
        assert_eq!((out[0], out[1], out[16], out[17], out[31]), (8.5, -1.0, 1.5, 10.5, 7.0));
    }

    #[test]
    fn iq4_nl_looks_its_nibbles_up() {
        let mut block = [0x88u8; 18];
        block[..3].copy_from_slice(&[0x00, 0x38, 0xf0]);
        let out = read(DenseType::IQ4_NL, &block);
        assert_eq!((out[0], out[16], out[1]), (-63.5, 56.5, 0.5));
        assert!(IQ4_NL_VALUES.is_sorted());
    }

    #[test]
    fn q8_0_stays_within_half_a_step_and_repeats_itself() {
        let mut rng = Rng(8);
        for magnitude in [1e-3f32, 1.0, 3e4] {
            let x: Vec<f32> = (0..320).map(|_| rng.gauss() * magnitude).collect();
            let mut bytes = vec![0; 340];
            quantize_row(DenseType::Q8_0, &x, &mut bytes).unwrap();
            let y = read(DenseType::Q8_0, &bytes);
            for (x, y) in x.chunks(32).zip(y.chunks(32)) {
                let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                // half a step of absmax/127, and a half-precision scale (2^-11 of 127 steps)
                let bound = absmax / 127.0 * (0.5 + 127.0 / 2048.0) * 1.0001 + 127.0 * 2f32.powi(-25);
                assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= bound), "beyond {bound}");
            }
        }
    }

    #[test]
    fn q8_0_rounds_ties_away_from_zero_and_survives_nothing() {
        let mut x = [0.0f32; 32];
        let mut block = [0xffu8; 34];
        quantize_q8_0(&x, &mut block);
        assert_eq!(block, [0; 34]);
        x[0] = 127.0;
        x[1] = 2.5;
        x[2] = -2.5;
        quantize_q8_0(&x, &mut block);
        assert_eq!(block[..5], [0x00, 0x3c, 127, 3, 0xfd]);
        x = [f32::from_bits(1); 32]; // 1/d would be infinite
        quantize_q8_0(&x, &mut block);
        assert_eq!(block, [0; 34]);
    }
}
