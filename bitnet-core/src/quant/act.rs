//! Activations: one token's vector, f32 -> i8 with one scale.

/// One quantized vector's numbers besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActScale {
    /// `q = round(x * s)`, where `s = 127 / max(1e-5, max |x|)`.
    pub s: f32,
    /// Sum of all `q`: kernels multiply codes 0..=2 and subtract it once. In tiles for kernels that multiply pairs, the
    /// whole amount by which a token's sums are too large.
    pub sum: i32,
}

/// `q = round_half_even(x * s)`, clamped to `-128..=127`, with `s = f32(127 / max(1e-5, max |x|))` divided in f64.
///
/// NaN in `x` does not take part in the maximum and becomes -128, on every instruction set.
/// Plain code, compiled once for each instruction set: see [`crate::kernels`].
///
/// # Panics
/// If `q` and `x` differ in length.
#[inline(always)]
pub fn quantize(q: &mut [i8], x: &[f32]) -> ActScale {
    assert_eq!(q.len(), x.len(), "quantize: q has {} values, x has {}", q.len(), x.len());
    let s = (127.0 / f64::from(max_abs(x)).max(1e-5)) as f32;
    let mut sum = 0;
    for (q, &x) in q.iter_mut().zip(x) {
        let v = x * s;
        let v = if v > -128.0 { v } else { -128.0 }; // also NaN
        let v = if v < 127.0 { v } else { 127.0 };
        // Adding 1.5 * 2^23 leaves the integer, rounded half to even, in the low mantissa bits.
        let bits = (v + 12_582_912.0).to_bits() as i32;
        let i = bits - 0x4b40_0000;
        sum += i;
        *q = i as i8;
    }
    ActScale { s, sum }
}

/// `max |x|`, 0 when there is none; NaN takes no part.
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    const LANES: usize = 32; // enough independent maxima to fill any register file; the maximum has no order
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if v.abs() > *lane { v.abs() } else { *lane };
        }
    }
    let mut max = 0.0_f32;
    for v in lanes.iter().chain(rest) {
        max = if v.abs() > max { v.abs() } else { max };
    }
    max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_rounds_half_to_even() {
        let mut q = [0; 4];
        let a = quantize(&mut q, &[0.5, -1.0, 0.25, 2.0]); // s = 63.5; products 31.75, -63.5, 15.875, 127
        assert_eq!(a, ActScale { s: 63.5, sum: 32 - 64 + 16 + 127 });
        assert_eq!(q, [32, -64, 16, 127]);
    }

    #[test]
    fn an_all_zero_vector_uses_the_floor() {
        let mut q = [1; 40];
        let a = quantize(&mut q, &[0.0; 40]);
        assert_eq!(a, ActScale { s: 12_700_000.0, sum: 0 });
        assert_eq!(q, [0; 40]);
    }

    #[test]
    fn values_that_are_not_numbers_do_not_spread() {
        let mut x = [0.25_f32; 67];
        x[13] = f32::NAN;
        x[66] = 1.0;
        let mut q = [0; 67];
        let a = quantize(&mut q, &x);
        assert_eq!(a.s, 127.0);
        assert_eq!((q[13], q[66], q[0]), (-128, 127, 32));

        x[0] = f32::INFINITY; // s = 0: infinity times zero is NaN
        assert_eq!(quantize(&mut q, &x).s, 0.0);
        assert_eq!((q[0], q[66]), (-128, 0));
    }

    #[test]
    fn the_error_is_at_most_half_a_step() {
        let x: Vec<f32> = (0..997_i16).map(|i| (f32::from(i) * 0.37).sin() * 3.0).collect();
        let mut q = vec![0; x.len()];
        let a = quantize(&mut q, &x);
        for (&q, &x) in q.iter().zip(&x) {
            assert!((f32::from(q) / a.s - x).abs() <= 0.5001 / a.s);
        }
        assert_eq!(a.sum, q.iter().map(|&q| i32::from(q)).sum::<i32>());
    }
}
