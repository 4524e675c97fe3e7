//! Quotients without the divider.
#![cfg_attr(test, expect(unsafe_code, reason = "tests call functions compiled for an instruction set"))]

use std::arch::x86_64::*;

/// `n / s`, rounded to nearest, of whole numbers `n` below 2^32 in size.
///
/// A divider takes as long as sixteen multiplications, so the quotient is found by them, to the same bit. With `y` the
/// float nearest to `1 / s`, `n y` has a relative error below 2^-22.9; one step of Newton's takes it to 2^-45 before it
/// is rounded, so that it is less than a unit in the last place from `n / s`. From there, where `n - q s` is a float,
/// `q + (n - q s) y` rounds to what `n / s` rounds to: P. Markstein, "Computation of Elementary Functions on the IBM RISC
/// System/6000 Processor", 1990. It asks that nothing overflows and no remainder underflows, which these `n` and `s` see
/// to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn quotients(n: __m512, s: f32) -> __m512 {
    /// Quotients of these are 2^-60 to 2^92 in size, and remainders no less than 2^-50.
    const RANGE: std::ops::RangeInclusive<f32> = 1.0 / TWO_60..=TWO_60;
    const TWO_60: f32 = (1_u64 << 60) as f32;
    let divisor = _mm512_set1_ps(s);
    if !RANGE.contains(&s) {
        return _mm512_div_ps(n, divisor);
    }
    let y = _mm512_set1_ps(1.0 / s);
    let mut q = _mm512_mul_ps(n, y);
    for _ in 0..2 {
        let remainder = _mm512_fnmadd_ps(q, divisor, n);
        q = _mm512_fmadd_ps(remainder, y, q);
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::avx512;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    fn quotients_of(n: &[f32; 16], s: f32) -> [f32; 16] {
        let mut out = [0.0; 16];
        // SAFETY: 16 readable values by type; this load accepts any alignment.
        let n = unsafe { _mm512_loadu_ps(n.as_ptr()) };
        let quotients = quotients(n, s);
        // SAFETY: 16 writable values by type; this store accepts any alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), quotients) };
        out
    }

    /// Numbers from the highest bits down, and from the lowest up, and any.
    fn patterns(bits: u32) -> impl Iterator<Item = u32> {
        let all = (1_u64 << bits) - 1;
        let runs = (0..=bits).flat_map(move |n| [(all >> n) as u32, (all << n & all) as u32]);
        let mut state = 1_u64;
        let random = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32 & all as u32
        });
        runs.chain(random.take(if cfg!(debug_assertions) { 300 } else { 3000 }))
    }

    /// Whole numbers whose quotients by `s`, odd, of 24 bits, are nearest to the middle between two floats: those of
    /// `m s = 2^25 n ± 1` with `m` of 25 bits, odd.
    fn near_the_middle(s: u32) -> impl Iterator<Item = u32> {
        // Newton's iteration, each step of which doubles the bits that are right.
        let inverse = (0..5).fold(s, |m, _| m.wrapping_mul(2_u32.wrapping_sub(s.wrapping_mul(m))));
        [inverse, inverse.wrapping_neg()].into_iter().filter_map(move |m| {
            let m = m % (1 << 25);
            let n = (u64::from(m) * u64::from(s) + (1 << 24)) >> 25; // to the nearest
            (m >= 1 << 24).then_some(n as u32)
        })
    }

    #[track_caller]
    fn check(n: [f32; 16], s: f32) {
        // SAFETY: the CPU has the features, as the tests below ask.
        let got = unsafe { quotients_of(&n, s) };
        for (n, got) in n.into_iter().zip(got) {
            let expected = n / s;
            let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
            assert!(same, "{n:e} / {s:e} is {expected:e}, not {got:e}");
        }
    }

    #[test]
    fn quotients_are_those_of_a_divider() {
        if !avx512::supported() {
            return; // the battery says so where it matters
        }
        // Below a power of two and above; beyond the range of the short way, and no numbers.
        let exponents = [1_u32, 60, 66, 67, 68, 120, 126, 127, 128, 150, 186, 187, 188, 254, 255];
        let scales = patterns(23)
            .flat_map(|fraction| exponents.map(|exponent| f32::from_bits(exponent << 23 | fraction)))
            .chain([0.0, -3.0, f32::from_bits(5)]);
        let whole: Vec<i32> =
            patterns(31).flat_map(|n| [n.cast_signed(), -n.cast_signed() - 1, (n >> 12) as i32]).collect();
        for (i, s) in scales.enumerate() {
            let at = i * 16 % (whole.len() - 16);
            check(std::array::from_fn(|k| whole[at + k] as f32), s);
        }
    }

    #[test]
    fn quotients_next_to_the_middle_between_two_floats_fall_on_the_right_side() {
        if !avx512::supported() {
            return; // the battery says so where it matters
        }
        let mut n_checked = 0;
        for s in patterns(23).map(|fraction| fraction | 1 << 23 | 1) {
            for n in near_the_middle(s) {
                for power in [1.0, 1.0 / 1024.0, 1.0 / 16_777_216.0, 65_536.0] {
                    check([n as f32; 16], s as f32 * power);
                }
                n_checked += 1;
            }
        }
        assert!(n_checked > 100, "{n_checked}");
    }
}
