//! Root mean square norm.

/// `y_i = f32(f32(x_i * r) * weight_i)` with `r = f32(1 / f32(sqrt(f32(mean(x^2) + eps))))`.
///
/// The mean is defined over an f64 sum in index order; see `mean_square` below.
///
/// # Panics
/// If the three lengths differ.
#[inline(always)]
pub fn rms_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    assert_eq!(y.len(), x.len(), "rms_norm: y has {} values, x has {}", y.len(), x.len());
    assert_eq!(weight.len(), x.len(), "rms_norm: weight has {} values, x has {}", weight.len(), x.len());
    let r = 1.0 / (mean_square(x) + eps).sqrt();
    for i in 0..x.len() {
        y[i] = (x[i] * r) * weight[i];
    }
}

/// `f32(sum / n)`, where `sum` adds the squares, each rounded to f32, in f64 and in index order.
///
/// Adding in index order is one long chain of dependent additions. Independent chains give a sum that may
/// differ from it, but both lie within `n * 2^-53` (relative) of the true sum of these non-negative numbers, so
/// they lie within twice that of each other. When every value in that interval rounds to the same f32 mean, that
/// mean is the canonical one; else (about once in 10^5 vectors of 2 560) the chain is walked after all.
#[inline(always)]
fn mean_square(x: &[f32]) -> f32 {
    const LANES: usize = 32; // enough independent chains that none is waited for
    let mut lanes = [0.0_f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(v * v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(v * v);
    }
    let sum: f64 = lanes.iter().sum();
    let n = x.len() as f64;
    let bound = sum * ((2.0 * n + 8.0) * f64::EPSILON); // EPSILON is 2^-52: twice what is needed
    let (low, high) = (((sum - bound) / n) as f32, ((sum + bound) / n) as f32);
    if low == high { low } else { mean_square_in_order(x) }
}

/// The definition of [`mean_square`].
#[cold]
fn mean_square_in_order(x: &[f32]) -> f32 {
    let mut sum = 0.0_f64;
    for &v in x {
        sum += f64::from(v * v);
    }
    (sum / x.len() as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_of_equal_values_becomes_its_weights() {
        let mut y = [0.0; 3];
        rms_norm(&mut y, &[2.0; 3], &[0.5, 1.0, -3.0], 0.0);
        assert_eq!(y, [0.5, 1.0, -3.0]);
    }

    #[test]
    fn lanes_and_the_chain_agree_to_the_bit() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 4.0
        };
        for n in (1..70).chain([256, 2560, 6912]) {
            for _ in 0..40 {
                let x: Vec<f32> = (0..n).map(|_| next()).collect();
                assert_eq!(mean_square(&x).to_bits(), mean_square_in_order(&x).to_bits(), "{n} values");
            }
        }
    }

    /// A sum that sits exactly on a rounding boundary of the mean must take the slow road, and infinities and
    /// NaN (no value equals itself there) must too.
    #[test]
    fn doubt_is_settled_in_index_order() {
        let boundary = [1.0, f32::from_bits(0x3980_0000)]; // 1 + 2^-24: the mean lies midway between two f32
        assert_eq!(mean_square(&boundary).to_bits(), mean_square_in_order(&boundary).to_bits());
        assert!(mean_square(&[f32::NAN; 9]).is_nan());
        assert_eq!(mean_square(&[1e30; 9]), f32::INFINITY);
        assert_eq!(mean_square(&[0.0; 9]), 0.0);
    }
}
