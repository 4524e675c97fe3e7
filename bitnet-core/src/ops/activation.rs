//! The functions between gate and down projection, and the residual.

use super::exp::vexp;

/// `h = f32(f32(r * r) * up)` with `r = max(gate, 0)`: the squared ReLU of the 2B-4T family. Overwrites `gate`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "relu2_mul: gate has {} values, up has {}", gate.len(), up.len());
    for (g, &u) in gate.iter_mut().zip(up) {
        let r = if *g > 0.0 { *g } else { 0.0 };
        *g = (r * r) * u;
    }
}

/// `h = f32(silu(gate) * up)` with `silu(g) = f32(g / f32(1 + vexp(-g)))`. Overwrites `gate`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "silu_mul: gate has {} values, up has {}", gate.len(), up.len());
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = (*g / (1.0 + vexp(-*g))) * u;
    }
}

/// `x = f32(y + x)`: a block's output joins the residual stream.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: x has {} values, y has {}", x.len(), y.len());
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_is_not_positive_gives_exactly_zero() {
        let mut gate = [-1.0, -0.0, 0.0, 2.0, f32::NAN];
        relu2_mul(&mut gate, &[5.0, -5.0, 7.0, 0.5, 1.0]);
        assert_eq!(gate, [0.0, -0.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn silu_is_close_to_its_definition() {
        for i in -80..80_i8 {
            let g = f32::from(i) * 0.25;
            let mut h = [g];
            silu_mul(&mut h, &[1.0]);
            let exact = f64::from(g) / (1.0 + (-f64::from(g)).exp());
            assert!((f64::from(h[0]) - exact).abs() <= 3e-7 * exact.abs().max(1e-6), "silu({g}) = {}", h[0]);
        }
    }
}
