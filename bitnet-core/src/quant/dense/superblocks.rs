//! Blocks of 256 weights: small integer scales per group, and half-precision scales for the whole block.
//!
//! ```text
//! Q2_K   scales[16] | qs[64] | d:f16 | dmin:f16                groups of 16   (d*sc)*q - dmin*m
//! Q3_K   hmask[32] | qs[64] | scales[12] | d:f16               groups of 16   (d*sc)*q
//! Q4_K   d:f16 | dmin:f16 | scales[12] | qs[128]               groups of 32   (d*sc)*q - dmin*m
//! Q5_K   d:f16 | dmin:f16 | scales[12] | qh[32] | qs[128]      groups of 32   (d*sc)*q - dmin*m
//! Q6_K   ql[128] | qh[64] | scales[16] i8 | d:f16              groups of 16   (d*sc)*(q - 32)
//! ```
//!
//! How the bits lie is said at each function.

use half::f16;

use super::half_at;

/// Scale byte g: low nibble scale, high nibble minimum of weights 16g..16g+16. Bits 2s..2s+2 of byte b in
/// `qs[32h..32h+32]` are weight 128h + 32s + b.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for i in 0..256 {
        let scale = block[i / 16];
        let q = (block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
        out[i] = (d * f32::from(scale & 15)) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// Two low bits as in Q2_K; bit i/32 of `hmask[i % 32]` set means "do not subtract 4". Six-bit scales, less
/// 32: group g has its low nibble in `scales[g % 8]` (low half for g < 8, high half after) and its two high
/// bits in `scales[8 + g % 4]`, at bit 2*(g / 4).
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for i in 0..256 {
        let g = i / 16;
        let low = (scales[g % 8] >> (g / 8 * 4)) & 15;
        let high = (scales[8 + g % 4] >> (g / 4 * 2)) & 3;
        let scale = f32::from(low | (high << 4)) - 32.0;
        let q = (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
        let less = if (hmask[i % 32] >> (i / 32)) & 1 == 1 { 0.0 } else { 4.0 };
        out[i] = (d * scale) * (f32::from(q) - less);
    }
}

/// Bytes `qs[32g..32g+32]` hold group 2g in their low nibbles and group 2g + 1 in their high ones.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, qs) = (&block[4..16], &block[16..]);
    for j in 0..8 {
        let (sc, m) = scale_and_min(scales, j);
        let (sc, m) = (d * f32::from(sc), dmin * f32::from(m));
        for l in 0..32 {
            let q = (qs[j / 2 * 32 + l] >> (j % 2 * 4)) & 15;
            out[32 * j + l] = sc * f32::from(q) - m;
        }
    }
}

/// As Q4_K, with bit j of `qh[l]` the fifth bit of weight l of group j.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, qh, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for j in 0..8 {
        let (sc, m) = scale_and_min(scales, j);
        let (sc, m) = (d * f32::from(sc), dmin * f32::from(m));
        for l in 0..32 {
            let q = (qs[j / 2 * 32 + l] >> (j % 2 * 4)) & 15 | ((qh[l] >> j) & 1) << 4;
            out[32 * j + l] = sc * f32::from(q) - m;
        }
    }
}

/// The six-bit scale and minimum of group j of 8, out of twelve bytes: the first four groups in the low six
/// bits of bytes j and j + 4; the last four in the nibbles of byte j + 4, under the two bits the others left
/// over.
fn scale_and_min(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
    }
}

/// Weight 128h + 32s + l (h in 0..2, s in 0..4): low nibble from `ql[64h + 32*(s % 2) + l]`, its low half for
/// s < 2 and its high half after; two high bits from `qh[32h + l]`, at bit 2s.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for h in 0..2 {
        for s in 0..4 {
            for l in 0..32 {
                let i = 128 * h + 32 * s + l;
                let low = (ql[64 * h + 32 * (s % 2) + l] >> (s / 2 * 4)) & 15;
                let high = (qh[32 * h + l] >> (2 * s)) & 3;
                out[i] = (d * f32::from(scales[i / 16] as i8)) * (f32::from(low | (high << 4)) - 32.0);
            }
        }
    }
}

/// For each group of 16 the scale with the least squared error among those tried; then `d` such that the
/// largest scale is 127 steps of it, and every group again with the better of the two integers beside its
/// scale.
pub(super) fn quantize_q6_k(x: &[f32; 256], block: &mut [u8; 210]) {
    block.fill(0);
    let groups = x.as_chunks::<16>().0;
    let mut wanted = [0.0f32; 16];
    for (scale, group) in wanted.iter_mut().zip(groups) {
        *scale = best_scale(group);
    }
    let largest = wanted.iter().fold(0.0f32, |m, s| if s.abs() > m.abs() { *s } else { m });
    let d = f16::from_f32((largest.abs() / 127.0).min(f16::MAX.to_f32()));
    if d == f16::ZERO {
        return; // smaller than half precision can say: all zero
    }
    block[208..].copy_from_slice(&d.to_le_bytes());
    let d = d.to_f32();
    for (g, group) in groups.iter().enumerate() {
        let below = (wanted[g] / d).floor().clamp(-128.0, 127.0);
        let above = (wanted[g] / d).ceil().clamp(-128.0, 127.0);
        let steps =
            if squared_error(group, d * above) < squared_error(group, d * below) { above } else { below };
        block[192 + g] = steps as i8 as u8;
        for (j, v) in group.iter().enumerate() {
            let code = (nearest(*v, d * steps) + 32.0) as u8;
            let i = 16 * g + j;
            let (h, s, l) = (i / 128, i % 128 / 32, i % 32);
            block[64 * h + 32 * (s % 2) + l] |= (code & 15) << (s / 2 * 4);
            block[128 + 32 * h + l] |= (code >> 4) << (2 * s);
        }
    }
}

/// Tries to map the value of largest magnitude to -29.0, -29.25, .. -35.0 steps (the integers end at -32, so
/// the later ones clip it), fits the scale to the resulting integers by least squares, and keeps the best.
fn best_scale(group: &[f32; 16]) -> f32 {
    let extreme = group.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let plain = extreme / -32.0;
    let mut best = (squared_error(group, plain), plain);
    for quarter in 116..=140u8 {
        let scale = extreme / (f32::from(quarter) / -4.0);
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for v in group {
            let q = nearest(*v, scale);
            xq += v * q;
            qq += q * q;
        }
        if qq > 0.0 {
            let fitted = xq / qq;
            let error = squared_error(group, fitted);
            if error < best.0 {
                best = (error, fitted);
            }
        }
    }
    best.1
}

/// The integer in -32..=31 whose product with `scale` is nearest to `v`; 0 if there is no scale to speak of.
fn nearest(v: f32, scale: f32) -> f32 {
    let steps = v / scale;
    if steps.is_nan() { 0.0 } else { steps.round().clamp(-32.0, 31.0) }
}

fn squared_error(group: &[f32; 16], scale: f32) -> f32 {
    group.iter().map(|v| (v - scale * nearest(*v, scale)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::{DenseType, dequantize_row, quantize_row};
    use super::*;
    use crate::quant::testing::Rng;

    #[test]
    fn q4_k_reads_scale_minimum_and_nibble() {
        let mut block = [0u8; 144];
        block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0x34]); // d = 0.5, dmin = 0.25
        block[4] = 3; // scale of group 0
        block[8] = 2; // its minimum
        block[16] = 7;
        let mut out = [0.0; 256];
        q4_k(&block, &mut out);
        assert_eq!((out[0], out[1], out[32]), (10.0, -0.5, 0.0));
    }

    #[test]
    fn q4_k_gathers_the_split_scales_of_its_upper_groups() {
        // Group 6: scale 45 = 13 | 2 << 4, minimum 27 = 11 | 1 << 4.
        let mut s = [0u8; 12];
        s[10] = 13 | 11 << 4;
        s[2] = 2 << 6;
        s[6] = 1 << 6;
        assert_eq!(scale_and_min(&s, 6), (45, 27));
        assert_eq!(scale_and_min(&s, 2), (0, 0));
    }

    #[test]
    fn q6_k_reads_its_two_planes() {
        let mut block = [0u8; 210];
        block[0] = 5;
        block[128] = 2;
        block[192] = 2;
        block[208..].copy_from_slice(&[0x00, 0x3c]); // d = 1
        let mut out = [0.0; 256];
        q6_k(&block, &mut out);
        assert_eq!((out[0], out[1], out[16]), (10.0, -64.0, 0.0));
    }

    fn round_trip(x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; DenseType::Q6_K.row_bytes(x.len()).unwrap()];
        quantize_row(DenseType::Q6_K, x, &mut bytes).unwrap();
        let mut y = vec![f32::NAN; x.len()];
        dequantize_row(DenseType::Q6_K, &bytes, &mut y);
        y
    }

    #[test]
    fn q6_k_keeps_every_group_within_its_error() {
        let mut rng = Rng(6);
        for magnitude in [0.01f32, 1.0, 1e4] {
            // Some groups a hundred times smaller than their neighbours.
            let small = |i: usize| if i / 16 % 5 == 3 { 0.01 } else { 1.0 };
            let x: Vec<f32> = (0..1024).map(|i| rng.gauss() * magnitude * small(i)).collect();
            let y = round_trip(&x);
            for (bx, by) in x.chunks(256).zip(y.chunks(256)) {
                let block_max = bx.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (gx, gy) in bx.chunks(16).zip(by.chunks(16)) {
                    let group_max = gx.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let mse = gx.iter().zip(gy).map(|(x, y)| (x - y).powi(2)).sum::<f32>() / 16.0;
                    // A step is group_max / 32, its error at most half of that, except at the one end that
                    // stops at 31; the scale itself is rounded to one of 127 steps of the largest.
                    let bound = group_max / 32.0 + block_max / 254.0;
                    assert!(mse.sqrt() <= bound, "rms {} beyond {bound}", mse.sqrt());
                }
                let (mut err, mut power) = (0.0, 0.0);
                for (x, y) in bx.iter().zip(by) {
                    err += (x - y).powi(2);
                    power += x * x;
                }
                assert!((err / power).sqrt() < 0.02, "relative error {}", (err / power).sqrt());
            }
        }
    }

    #[test]
    fn q6_k_is_exact_on_whole_steps() {
        let x: Vec<f32> = (0..256).map(|i| 0.5 * ((i * 7 % 64) as f32 - 32.0)).collect();
        let mut x = x;
        for group in x.chunks_mut(16) {
            group[0] = -16.0; // every group spans the whole range, so every scale is the same
        }
        // The common scale 0.5 is 127 steps of d = 0.5 / 127 rounded to half precision.
        let worst = x.iter().zip(round_trip(&x)).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst <= 16.0 / 2048.0, "worst {worst}");
    }

    #[test]
    fn q6_k_survives_nothing_next_to_nothing_and_too_much() {
        assert_eq!(round_trip(&[0.0; 256]), [0.0; 256]);
        assert_eq!(round_trip(&[1e-30; 256]), [0.0; 256]);
        let most = 32.0 * 127.0 * 65504.0;
        let mut x = [most; 256];
        x[17] = -most;
        assert!(round_trip(&x).iter().zip(x).all(|(y, x)| y.is_finite() && (y / x - 1.0).abs() < 0.1));
    }
}
