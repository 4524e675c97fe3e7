//! Random numbers for weights: fast, and the same on every machine.

use crate::rng::{SplitMix64, mix};

/// xoshiro256++.
pub(super) struct Rng([u64; 4]);

impl Rng {
    /// One of many independent streams of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Rng {
        let mut states = SplitMix64(mix(seed).wrapping_add(stream));
        Rng(std::array::from_fn(|_| states.next()))
    }

    pub(super) fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// 0 up to, not including, 1.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Twelve uniform numbers added up, less their mean: variance 1, and exact in `f32`.
    pub(super) fn gauss(&mut self) -> f32 {
        let sum: u64 =
            (0..3).map(|_| self.next()).flat_map(|word| (0..4).map(move |i| word >> (16 * i) & 0xffff)).sum();
        (sum as f32 - 6.0 * 65_535.0) / 65_536.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_generator() {
        let mut rng = Rng([1, 2, 3, 4]);
        let first = [rng.next(), rng.next(), rng.next()];
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn streams_of_a_seed_differ() {
        let mut firsts: Vec<u64> = (0..100).map(|i| Rng::new(i / 10, i % 10).next()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 100);
    }

    #[test]
    fn gauss_has_mean_0_variance_1_and_unit_stays_below_1() {
        let mut rng = Rng::new(1, 0);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(rng.gauss())).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
        assert!((0..100_000).map(|_| rng.unit()).all(|u| (0.0..1.0).contains(&u)));
    }
}
