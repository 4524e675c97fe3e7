//! Plain loops that every instruction set has compiled for itself.

/// The plain loops of [`crate::ops`] and [`crate::quant::act`], compiled for one instruction set.
macro_rules! elementwise {
    ($($feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        fn rms_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
            crate::ops::rms_norm::rms_norm(y, x, weight, eps);
        }
        $(#[target_feature(enable = $feature)])?
        fn quantize(q: &mut [i8], x: &[f32]) -> crate::quant::act::ActScale {
            crate::quant::act::quantize(q, x)
        }
        $(#[target_feature(enable = $feature)])?
        fn pair_up(row: &mut [i8], t: usize, peaks: &mut Vec<crate::kernels::paired::Peak>) -> i32 {
            crate::kernels::paired::pair_up(row, t, peaks)
        }
        $(#[target_feature(enable = $feature)])?
        fn softmax(scores: &mut [f32]) {
            crate::ops::softmax::softmax(scores);
        }
        $(#[target_feature(enable = $feature)])?
        fn round_to_f16(x: &mut [f32]) {
            crate::ops::round::round_to_f16(x);
        }
        $(#[target_feature(enable = $feature)])?
        fn relu2_mul(gate: &mut [f32], up: &[f32]) {
            crate::ops::activation::relu2_mul(gate, up);
        }
        $(#[target_feature(enable = $feature)])?
        fn silu_mul(gate: &mut [f32], up: &[f32]) {
            crate::ops::activation::silu_mul(gate, up);
        }
        $(#[target_feature(enable = $feature)])?
        fn add(x: &mut [f32], y: &[f32]) {
            crate::ops::activation::add(x, y);
        }
        $(#[target_feature(enable = $feature)])?
        fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairing: crate::ops::rope::Pairing) {
            crate::ops::rope::rotate(head, cos, sin, pairing);
        }
        $(#[target_feature(enable = $feature)])?
        fn shadow_row(fours: &mut [u8], twos: &mut [u8], w: &[f32]) -> crate::ops::screen::ShadowRow {
            crate::ops::screen::shadow_row(fours, twos, w)
        }
        $(#[target_feature(enable = $feature)])?
        fn bounds(
            upper: &mut [f64],
            near: &[f64],
            rows: &[crate::ops::screen::ShadowRow],
            x: &crate::ops::screen::ShadowVector,
            precision: crate::ops::screen::Precision,
        ) -> f64 {
            crate::ops::screen::bounds(upper, near, rows, x, precision)
        }
        $(#[target_feature(enable = $feature)])?
        fn pack_columns(columns: &mut [u8], w: crate::quant::i2s::Ternary<'_>, first: usize) {
            crate::quant::columns::pack_columns(columns, w, first);
        }
        $(#[target_feature(enable = $feature)])?
        fn join_sums(y: &mut [f32], sums: &[i32], a: crate::quant::act::ActScale, scale: f32) {
            crate::quant::columns::join_sums(y, sums, a.sum, a.s, scale);
        }
        $(#[target_feature(enable = $feature)])?
        fn pack_tri5(row: &mut [u8], i2s: &[u8]) {
            crate::quant::tri5::pack_row(row, i2s);
        }
        $(#[target_feature(enable = $feature)])?
        fn gemv_f32(y: &mut [f32], w: &[f32], x: &[f32]) {
            crate::ops::dot32::gemv(y, w, x);
        }
    };
}
pub(super) use elementwise;
