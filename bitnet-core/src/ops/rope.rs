//! Rotary position embedding.

/// Which two values of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `k` and `k + n_rot / 2`: the `bitnet*` architectures.
    Halves,
    /// `2k` and `2k + 1`: `llama`.
    Adjacent,
}

/// The angles of a model: everything about them but the position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Values of a head that are rotated; even.
    pub n_rot: usize,
    /// Base of the angles' geometric series.
    pub freq_base: f32,
    /// Multiplies every angle (linear scaling); 1 leaves them alone.
    pub freq_scale: f32,
    /// Divides angle `k` (`rope_freqs.weight`); empty, or `n_rot / 2` values.
    pub factors: Vec<f32>,
    /// Which values form a pair.
    pub pairing: Pairing,
}

impl Rope {
    /// Cosines and sines of the angles at `pos`: `[n_rot / 2]` each.
    ///
    /// The angle is an iterated f32 product, `theta_{k+1} = theta_k * theta_scale`, not a power for each `k`, and
    /// the platform's `powf`, `cosf` and `sinf` are used, because that is what bitnet.cpp does and none of this is
    /// correctly rounded: another order or a detour through f64 gives other bits.
    ///
    /// # Panics
    /// If `cos` or `sin` is not `n_rot / 2` long.
    pub fn angles(&self, pos: usize, cos: &mut [f32], sin: &mut [f32]) {
        assert_eq!(cos.len(), self.n_rot / 2, "rope: cosines");
        assert_eq!(sin.len(), self.n_rot / 2, "rope: sines");
        let theta_scale = self.freq_base.powf(-2.0 / self.n_rot as f32);
        let mut theta = pos as f32;
        for k in 0..self.n_rot / 2 {
            let factor = self.factors.get(k).copied().unwrap_or(1.0);
            let angle = (theta / factor) * self.freq_scale;
            cos[k] = angle.cos();
            sin[k] = angle.sin();
            theta *= theta_scale;
        }
    }
}

/// Rotates one head: `a' = fma(a, c, -f32(b * s))`, `b' = fma(a, s, f32(b * c))`.
///
/// # Panics
/// If `head` is shorter than two angles' worth, or `cos` and `sin` differ in length.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairing: Pairing) {
    let half = cos.len();
    assert_eq!(sin.len(), half, "rope: {half} cosines, {} sines", sin.len());
    match pairing {
        Pairing::Halves => {
            let (first, rest) = head.split_at_mut(half);
            for k in 0..half {
                let (a, b) = (first[k], rest[k]);
                first[k] = a.mul_add(cos[k], -(b * sin[k]));
                rest[k] = a.mul_add(sin[k], b * cos[k]);
            }
        }
        Pairing::Adjacent => {
            for k in 0..half {
                let (a, b) = (head[2 * k], head[2 * k + 1]);
                head[2 * k] = a.mul_add(cos[k], -(b * sin[k]));
                head[2 * k + 1] = a.mul_add(sin[k], b * cos[k]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pairing: Pairing) -> Rope {
        Rope { n_rot: 4, freq_base: 10_000.0, freq_scale: 1.0, factors: Vec::new(), pairing }
    }

    #[test]
    fn position_zero_rotates_nothing() {
        let (mut cos, mut sin) = ([0.0; 2], [1.0; 2]);
        rope(Pairing::Halves).angles(0, &mut cos, &mut sin);
        let mut head = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut head, &cos, &sin, Pairing::Halves);
        assert_eq!(head, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn pairs_are_what_the_architecture_says() {
        let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]); // a quarter turn for the first pair, none for the second
        let mut halves = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut halves, &cos, &sin, Pairing::Halves);
        assert_eq!(halves, [-3.0, 2.0, 1.0, 4.0]);
        let mut adjacent = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut adjacent, &cos, &sin, Pairing::Adjacent);
        assert_eq!(adjacent, [-2.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn factors_and_scale_slow_the_angles() {
        let mut slow = rope(Pairing::Halves);
        slow.factors = vec![1.0, 8.0];
        slow.freq_scale = 0.5;
        let (mut cos, mut sin) = ([0.0; 2], [0.0; 2]);
        slow.angles(3, &mut cos, &mut sin);
        let theta_1 = 3.0 * 10_000_f32.powf(-0.5);
        assert_eq!(cos, [1.5_f32.cos(), (theta_1 / 8.0 * 0.5).cos()]);
        assert_eq!(sin, [1.5_f32.sin(), (theta_1 / 8.0 * 0.5).sin()]);
    }
}
