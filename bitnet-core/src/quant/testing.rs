//! What the tests of this folder share: a seeded generator, so that a failure repeats itself, and a format that nothing
//! else here writes.

use std::ops::Range;

pub(crate) use crate::rng::SplitMix64 as Rng;

impl Rng {
    /// Uniform in `-1.0..1.0`.
    pub(crate) fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly Gaussian, unit variance: the sum of twelve uniform numbers.
    pub(crate) fn gauss(&mut self) -> f32 {
        (0..12).map(|_| self.symmetric() * 0.5).sum()
    }

    /// `n` ternary codes, the three about equally often.
    pub(crate) fn codes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.below(3) as i8 - 1).collect()
    }
}

/// Ranges that a caller may ask of `rows` rows: all at once, each alone, an uneven cut, and none.
pub(crate) fn row_splits(rows: usize) -> Vec<Range<usize>> {
    let mut splits: Vec<_> = (0..rows).map(|row| row..row + 1).collect();
    splits.extend([0..rows, 0..rows / 3, rows / 3..rows, rows..rows]);
    splits
}

/// An IQ2_BN_R4 tensor, one weight at a time from its closed form.
pub(crate) fn pack_iq2_bn_r4(codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; rows * (4 + cols / 4)];
    for row in 0..rows {
        let (group, k) = (row / 4 * (16 + cols), row % 4);
        bytes[group + 4 * k..][..4].copy_from_slice(&scales[row].to_le_bytes());
        for col in 0..cols {
            let (ib, l, s, i) = (col / 64, col % 64 / 16, col % 16 / 4, col % 4);
            let code = (codes[row * cols + col] + 1) as u8;
            bytes[group + 16 + 64 * ib + 16 * l + 4 * k + i] |= code << (2 * s);
        }
    }
    bytes
}
