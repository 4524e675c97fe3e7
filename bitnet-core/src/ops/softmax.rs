//! Softmax over the positions of one attention head.

use super::exp::vexp;

/// Positions are padded to a multiple of this with minus infinity.
pub const PAD: usize = 32;

/// Turns scores into probabilities, in place.
///
/// - `m = max`; `e_p = vexp(score_p - m)`
/// - the denominator is an f64 sum over groups of 8 in order; a group is reduced in f32 as
///   `w_j = e_{j+4} + e_j` (j < 4), `(w0 + w2) + (w1 + w3)`
/// - `p = e_p * f32(1 / denominator)`
///
/// # Panics
/// If the length is not a multiple of [`PAD`].
#[inline(always)]
pub fn softmax(scores: &mut [f32]) {
    assert!(scores.len().is_multiple_of(PAD), "softmax: {} positions are not padded to {PAD}", scores.len());
    let (blocks, _) = scores.as_chunks_mut::<PAD>();
    let mut lanes = [f32::NEG_INFINITY; PAD];
    for block in blocks.iter() {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let max = lanes.iter().fold(f32::NEG_INFINITY, |max, &v| if v > max { v } else { max });

    let mut sum = 0.0_f64;
    for block in blocks.iter_mut() {
        for v in block.iter_mut() {
            *v = vexp(*v - max);
        }
        for e in block.as_chunks::<8>().0 {
            sum += f64::from(((e[4] + e[0]) + (e[6] + e[2])) + ((e[5] + e[1]) + (e[7] + e[3])));
        }
    }
    let inv_sum = (1.0 / sum) as f32;
    for v in scores {
        *v *= inv_sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_padding_gets_none() {
        let mut s = [f32::NEG_INFINITY; 64];
        for (i, v) in s[..40].iter_mut().enumerate() {
            *v = (i as f32 * 0.7).sin() * 5.0;
        }
        softmax(&mut s);
        assert!((s.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(s[40..].iter().all(|&p| p == 0.0));
    }

    #[test]
    fn equal_scores_share_equally() {
        let mut s = [3.5; 32];
        softmax(&mut s);
        assert_eq!(s, [1.0 / 32.0; 32]);
    }

    #[test]
    fn more_padding_changes_no_bit() {
        let scores: Vec<f32> = (0..29_u8).map(|i| (f32::from(i) * 1.3).cos() * 9.0).collect();
        let run = |n: usize| {
            let mut s = vec![f32::NEG_INFINITY; n];
            s[..scores.len()].copy_from_slice(&scores);
            softmax(&mut s);
            s[..scores.len()].iter().map(|p| p.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(32), run(160));
    }
}
