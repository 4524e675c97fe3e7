//! Rounding to the precision of f16.

/// Rounds every value to the nearest f16, ties to even: queries and probabilities, before they meet f16 keys and
/// values, and what an f16 head reads.
///
/// A value beyond the largest f16 becomes infinite; a NaN keeps the top of its payload.
#[inline(always)]
pub fn round_to_f16(x: &mut [f32]) {
    for v in x {
        *v = rounded(*v);
    }
}

#[inline(always)]
fn rounded(x: f32) -> f32 {
    const CUT: u32 = 0x1fff; // the 13 bits of a mantissa that f16 does not have
    const LEAST_NORMAL: u32 = 0x3880_0000; // 2^-14
    const OVERFLOW: u32 = 0x4780_0000; // 2^16, which 65520 and more round to
    const INFINITY: u32 = f32::INFINITY.to_bits();
    const QUIET: u32 = 0x0040_0000;

    let sign = x.to_bits() & 0x8000_0000;
    let size = x.to_bits() & 0x7fff_ffff;
    let normal = (size + CUT / 2 + ((size >> 13) & 1)) & !CUT;
    // Smaller f16 values are multiples of 2^-24, and so are the f32 values from a half to one.
    let small = (f32::from_bits(size) + 0.5) - 0.5;
    let finite = if size < LEAST_NORMAL { small.to_bits() } else { normal };
    let any = if finite < OVERFLOW { finite } else { INFINITY };
    f32::from_bits(sign | if size > INFINITY { (size | QUIET) & !CUT } else { any })
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_kind_of_value_rounds_as_a_conversion_there_and_back_does() {
        let ends =
            [0, 1, 0xffe, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x8000, 0xffff];
        for top in 0..=u16::MAX {
            let bits = ends.map(|end| u32::from(top) << 16 | end);
            let mut x = bits.map(f32::from_bits);
            round_to_f16(&mut x);
            for (bits, got) in bits.into_iter().zip(x) {
                let expected = f16::from_f32(f32::from_bits(bits)).to_f32();
                assert_eq!(got.to_bits(), expected.to_bits(), "of {bits:#010x}: {got} for {expected}");
            }
        }
    }
}
