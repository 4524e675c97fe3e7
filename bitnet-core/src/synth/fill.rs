//! The bytes of a tensor, made up as fast as a disk takes them.
//!
//! An I2_S tensor is two bits for each weight, then 32 bytes that begin with the scale. Which weight stands where in
//! a byte does not matter here: they are drawn independently.

use half::f16;

use super::rng::Rng;
use super::{Planned, SynthOptions};
use crate::gguf::TensorType;

/// Bytes that follow the weights of an I2_S tensor: its scale, then zeros.
pub(super) const TAIL: usize = 32;

/// What 16 random bits choose from.
pub(super) struct Pools {
    /// Four ternary weights in a byte.
    ternary: Vec<u8>,
    gauss: Vec<f32>,
    gauss_f16: Vec<[u8; 2]>,
}

const POOL: usize = 1 << 16;

impl Pools {
    pub(super) fn new(options: &SynthOptions) -> Pools {
        let mut rng = Rng::new(options.seed, 1);
        let gauss: Vec<f32> = (0..POOL).map(|_| rng.gauss()).collect();
        let gauss_f16 = gauss.iter().map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        Pools { ternary: ternary_pool(options.zeros), gauss, gauss_f16 }
    }
}

/// Each of the 81 bytes of four codes (0, 1, 2 for -1, 0, +1) as often as its probability demands.
fn ternary_pool(zeros: f64) -> Vec<u8> {
    let of_code = [(1.0 - zeros) / 2.0, zeros, (1.0 - zeros) / 2.0];
    let mut pool = Vec::with_capacity(POOL);
    let mut cumulative = 0.0;
    for four in 0..81 {
        let codes = [four / 27, four / 9 % 3, four / 3 % 3, four % 3];
        let byte = codes.iter().fold(0u8, |byte, &code| byte << 2 | code as u8);
        cumulative += codes.iter().map(|&code| of_code[code]).product::<f64>();
        pool.resize(((cumulative * POOL as f64).round() as usize).clamp(pool.len(), POOL), byte);
    }
    // Rounding may leave the last few open; a byte that occurs takes them.
    let last = pool.last().copied().unwrap_or(0);
    pool.resize(POOL, last);
    pool
}

/// The bytes of one tensor, from its first to its last.
pub(super) struct Source<'a> {
    pools: &'a Pools,
    rng: Rng,
    kind: Kind,
}

enum Kind {
    /// With this scale.
    Ternary(f32),
    EmbdF16,
    EmbdF32,
    /// Around 1, as trained norms are.
    Norm,
}

impl<'a> Source<'a> {
    pub(super) fn new(pools: &'a Pools, tensor: &Planned, mut rng: Rng) -> Source<'a> {
        let kind = match (tensor.ty, &tensor.shape[..]) {
            // Keeps the size of the activations about the same through a layer.
            (TensorType::I2_S, &[_, cols]) => Kind::Ternary((0.8 + 0.4 * rng.unit()) / (cols as f32).sqrt()),
            (TensorType::F16, _) => Kind::EmbdF16,
            (_, &[_, _]) => Kind::EmbdF32,
            _ => Kind::Norm,
        };
        Source { pools, rng, kind }
    }

    /// Fills `chunk`, the next bytes of the `left` that are still to come.
    pub(super) fn fill(&mut self, chunk: &mut [u8], left: usize) {
        match self.kind {
            Kind::Ternary(scale) => {
                // Weights end where the tail begins; the tail may begin in this chunk or be all of it.
                let (weights, tail) = chunk.split_at_mut(left.saturating_sub(TAIL).min(chunk.len()));
                self.choose(weights, |pools, i| [pools.ternary[i]]);
                let mut end = [0; TAIL];
                end[..4].copy_from_slice(&scale.to_le_bytes());
                let from = TAIL - left.min(TAIL);
                tail.copy_from_slice(&end[from..from + tail.len()]);
            }
            Kind::EmbdF16 => self.choose(chunk, |pools, i| pools.gauss_f16[i]),
            Kind::EmbdF32 => self.choose(chunk, |pools, i| pools.gauss[i].to_le_bytes()),
            Kind::Norm => {
                for value in chunk.chunks_exact_mut(4) {
                    value.copy_from_slice(&(1.0 + 0.1 * self.rng.gauss()).to_le_bytes());
                }
            }
        }
    }

    /// One element of `N` bytes for every 16 random bits.
    fn choose<const N: usize>(&mut self, bytes: &mut [u8], element: impl Fn(&Pools, usize) -> [u8; N]) {
        for four in bytes.chunks_mut(4 * N) {
            let word = self.rng.next();
            for (i, value) in four.chunks_exact_mut(N).enumerate() {
                value.copy_from_slice(&element(self.pools, (word >> (16 * i)) as usize % POOL));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::SynthShape;

    #[test]
    fn a_tail_split_between_chunks_stays_whole() {
        let pools = Pools::new(&SynthOptions::new(SynthShape::Tiny));
        let tensor = Planned { name: "t".into(), ty: TensorType::I2_S, shape: vec![4, 128] };
        let whole = |cut: usize| {
            let mut source = Source::new(&pools, &tensor, Rng::new(1, 1));
            let mut bytes = vec![0xee; 128 + TAIL];
            let (first, second) = bytes.split_at_mut(cut);
            source.fill(first, 128 + TAIL);
            source.fill(second, 128 + TAIL - cut);
            bytes
        };
        for cut in [128, 129, 130, 140, 159] {
            assert_eq!(whole(cut), whole(160 - TAIL), "cut at {cut}");
        }
    }
}
