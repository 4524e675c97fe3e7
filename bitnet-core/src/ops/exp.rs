//! The exponential of bitnet.cpp's vector builds.

/// `e^x` to about 1.5 units in the last place, by range reduction and five terms.
///
/// It follows the vector exponential that ggml uses for softmax and SiLU, operation by operation, so its
/// rounding errors are the same ones.
#[inline(always)]
#[must_use]
pub fn vexp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b); // 0x1.715476p+0
    const LN2_HIGH: f32 = f32::from_bits(0x3f31_7200); // 0x1.62e4p-1
    const LN2_LOW: f32 = f32::from_bits(0x35bf_be8e); // 0x1.7f7d1cp-20
    const C1: f32 = f32::from_bits(0x3f7f_fff6); // 0x1.ffffecp-1
    const C2: f32 = f32::from_bits(0x3eff_fedb); // 0x1.fffdb6p-2
    const C3: f32 = f32::from_bits(0x3e2a_af33); // 0x1.555e66p-3
    const C4: f32 = f32::from_bits(0x3d2b_9f17); // 0x1.573e2ep-5
    const C5: f32 = f32::from_bits(0x3c07_2010); // 0x1.0e4020p-7

    let z = x.mul_add(LOG2_E, ROUND);
    let n = z - ROUND; // x / ln 2, to the nearest integer
    let b = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, x)); // what remains, within ln 2 / 2
    let e = z.to_bits() << 23;
    let k = f32::from_bits(e.wrapping_add(1.0_f32.to_bits())); // 2^n
    let u = b * b;
    let j = C5.mul_add(b, C4).mul_add(u, C3.mul_add(b, C2)).mul_add(u, C1 * b); // e^b - 1
    let near = j.mul_add(k, k);

    // 2^n leaves the range of a normal f32: scale in two steps, or overflow and underflow outright.
    let g = if n <= 0.0 { 0x8200_0000_u32 } else { 0 };
    let s1 = f32::from_bits(g.wrapping_add(0x7f00_0000));
    let s2 = f32::from_bits(e.wrapping_sub(g));
    let far = s2.mul_add(j, s2) * s1;

    let size = n.abs();
    if size > 192.0 {
        s1 * s1
    } else if size > 126.0 {
        far
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_exponential() {
        for i in -8700..=8800_i16 {
            let x = f32::from(i) * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(vexp(x)) - exact).abs() / exact;
            assert!(error < 2e-7 || exact < 1.2e-38, "vexp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn its_ends_are_exact() {
        assert_eq!(vexp(0.0), 1.0);
        assert_eq!(vexp(-0.0), 1.0);
        assert_eq!(vexp(f32::NEG_INFINITY), 0.0);
        assert_eq!(vexp(-200.0), 0.0);
        assert_eq!(vexp(200.0), f32::INFINITY);
        assert_eq!(vexp(f32::INFINITY), f32::INFINITY);
        assert!(vexp(f32::NAN).is_nan());
    }

    #[test]
    fn the_constants_are_the_hexadecimal_ones_of_the_source() {
        let exact = |mantissa: i64, exponent: i32| (mantissa as f64 * 2_f64.powi(exponent)) as f32;
        assert_eq!(exact(0x171_5476, -24), f32::from_bits(0x3fb8_aa3b));
        assert_eq!(exact(0x162e4, -17), f32::from_bits(0x3f31_7200));
        assert_eq!(exact(0x17f_7d1c, -44), f32::from_bits(0x35bf_be8e));
        assert_eq!(exact(0x1ff_ffec, -25), f32::from_bits(0x3f7f_fff6));
        assert_eq!(exact(0x1ff_fdb6, -26), f32::from_bits(0x3eff_fedb));
        assert_eq!(exact(0x155_5e66, -27), f32::from_bits(0x3e2a_af33));
        assert_eq!(exact(0x157_3e2e, -29), f32::from_bits(0x3d2b_9f17));
        assert_eq!(exact(0x10e_4020, -31), f32::from_bits(0x3c07_2010));
    }
}
