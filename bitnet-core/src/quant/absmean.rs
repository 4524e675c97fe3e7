//! From trained weights to ternary ones: the absmean rule of BitNet b1.58 (Ma et al., "The Era of 1-bit
//! LLMs", 2024, equations 1 to 3), one scale for the whole matrix.
//!
//! ```text
//! m = mean |w|      s = 1 / max(m, 1e-5)      code = clamp(round_half_even(w * s), -1, +1)      scale = 1 / s
//! ```
//!
//! All in `f32`, except the sum behind the mean: `f64`, in index order. So the result is the same on every
//! machine and for any way of reading the matrix in pieces, and off the exact mean by far less than the last
//! bit of `m`. Other converters sum in `f32`, in the order of their vector units: their `m` may differ in its
//! last bits, and with it a code whose `w * s` lies next to one half.

use std::fmt;

/// Collects `mean |w|` of a matrix read in pieces.
///
/// ```
/// use bitnet_core::quant::absmean::MeanAbs;
///
/// let mut mean = MeanAbs::default();
/// mean.add(&[0.5, -1.5]);
/// mean.add(&[0.0, 2.0]);
/// let rule = mean.finish().expect("finite weights");
/// let mut codes = [0; 4];
/// rule.ternarize(&[0.5, -1.5, 0.0, 2.0], &mut codes);
/// assert_eq!(codes, [0, -1, 0, 1]); // 0.5 is exactly half of the mean, and half goes to even
/// assert_eq!(rule.scale(), 1.0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct MeanAbs {
    sum: f64,
    n: u64,
}

impl MeanAbs {
    /// Adds the next weights, in order.
    pub fn add(&mut self, weights: &[f32]) {
        for w in weights {
            self.sum += f64::from(w.abs());
        }
        self.n += weights.len() as u64;
    }

    /// The rule for this matrix; of no weights at all, that for zeros.
    ///
    /// # Errors
    /// If a weight was infinite or not a number.
    pub fn finish(&self) -> Result<Absmean, NotFinite> {
        if !self.sum.is_finite() {
            return Err(NotFinite);
        }
        let mean = if self.n == 0 { 0.0 } else { (self.sum / self.n as f64) as f32 };
        // Weights this small are zeros in all but name; the floor keeps `s` finite.
        Ok(Absmean { inv_scale: 1.0 / mean.max(1e-5) })
    }
}

/// A weight that is infinite or not a number has no mean, and no ternary form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected finite weights, found an infinite one or one that is not a number")
    }
}

impl std::error::Error for NotFinite {}

/// The absmean rule with the mean of one matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Absmean {
    inv_scale: f32,
}

impl Absmean {
    /// What a code is worth: `weight = code * scale`. Not quite the mean: it is rounded twice, `1 / (1 / m)`,
    /// as in the models that bitnet.cpp converts.
    #[must_use]
    pub fn scale(self) -> f32 {
        1.0 / self.inv_scale
    }

    /// Rounds each weight to -1, 0 or +1 scales.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn ternarize(self, weights: &[f32], codes: &mut [i8]) {
        assert_eq!(weights.len(), codes.len(), "{} weights, {} codes", weights.len(), codes.len());
        for (code, w) in codes.iter_mut().zip(weights) {
            *code = (w * self.inv_scale).round_ties_even().clamp(-1.0, 1.0) as i8;
        }
    }
}

/// The codes of weights that are ternary already, as converters leave them in F32 and F16 files: every one 0
/// or exactly `scale` from it. Such a matrix must not go through the absmean rule, which would find a smaller
/// mean.
///
/// - `weights`: any part of the matrix
/// - `scale`: `max |w|` of the whole matrix
/// - `codes`: as many, overwritten
///
/// # Errors
/// The index of the first weight that is neither.
///
/// # Panics
/// If the lengths differ.
pub fn codes_of_ternary(weights: &[f32], scale: f32, codes: &mut [i8]) -> Result<(), usize> {
    assert_eq!(weights.len(), codes.len(), "{} weights, {} codes", weights.len(), codes.len());
    for (i, (code, w)) in codes.iter_mut().zip(weights).enumerate() {
        *code = match *w {
            0.0 => 0,
            w if w == scale => 1,
            w if w == -scale => -1,
            _ => return Err(i),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::Rng;

    #[test]
    fn codes_follow_the_mean() {
        let weights = [0.1f32, -0.9, 0.4, -0.2, 1.4, 0.0, -0.5, 0.5]; // mean |w| = 0.5
        let mut mean = MeanAbs::default();
        mean.add(&weights);
        let rule = mean.finish().unwrap();
        let mut codes = [9; 8];
        rule.ternarize(&weights, &mut codes);
        assert_eq!(codes, [0, -1, 1, 0, 1, 0, -1, 1]);
        assert_eq!(rule.scale(), 0.5);
    }

    #[test]
    fn the_scale_is_the_mean_rounded_twice() {
        let mut rng = Rng(158);
        let mut once = 0;
        for _ in 0..200 {
            let m = rng.symmetric().abs() + 0.01;
            let mut mean = MeanAbs::default();
            mean.add(&[m, -m, m]);
            let scale = mean.finish().unwrap().scale();
            assert!((scale.to_bits() as i32 - m.to_bits() as i32).abs() <= 1);
            assert_eq!(scale, 1.0 / (1.0 / m));
            once += u32::from(scale != m);
        }
        assert!(once > 0, "no mean showed the second rounding");
    }

    #[test]
    fn pieces_of_any_size_give_the_same_bits() {
        let mut rng = Rng(3);
        let weights: Vec<f32> = (0..10_000).map(|_| rng.gauss() * 0.03).collect();
        let mut whole = MeanAbs::default();
        whole.add(&weights);
        for piece in [1, 7, 4096] {
            let mut mean = MeanAbs::default();
            weights.chunks(piece).for_each(|w| mean.add(w));
            assert_eq!(mean.finish(), whole.finish());
        }
    }

    #[test]
    fn nothing_and_next_to_nothing_stay_finite() {
        for weights in [&[][..], &[0.0; 4], &[1e-30, -1e-30]] {
            let mut mean = MeanAbs::default();
            mean.add(weights);
            let rule = mean.finish().unwrap();
            let mut codes = vec![9; weights.len()];
            rule.ternarize(weights, &mut codes);
            assert!(codes.iter().all(|c| *c == 0));
            assert!(rule.scale() > 0.0 && rule.scale() < 1.1e-5);
        }
    }

    #[test]
    fn a_weight_that_is_no_number_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut mean = MeanAbs::default();
            mean.add(&[1.0, bad]);
            assert_eq!(mean.finish(), Err(NotFinite));
        }
    }

    #[test]
    fn ternary_weights_are_taken_as_they_are() {
        let mut codes = [9; 5];
        assert_eq!(codes_of_ternary(&[0.75, 0.0, -0.75, -0.0, 0.75], 0.75, &mut codes), Ok(()));
        assert_eq!(codes, [1, 0, -1, 0, 1]);
        assert_eq!(codes_of_ternary(&[0.75, 0.7499999], 0.75, &mut codes[..2]), Err(1));
        assert_eq!(codes_of_ternary(&[f32::NAN], 0.75, &mut codes[..1]), Err(0));
    }
}
