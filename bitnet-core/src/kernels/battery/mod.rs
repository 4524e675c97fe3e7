//! One set of tests, run on every instruction set this machine has, each function called directly against the
//! scalar definition: equal bits, for every remainder of every length and for adversarial values.
//!
//! `BITNET_REQUIRE_ISA=avx2,avx512` (set by CI) turns a table of that name that is absent into a failure.

mod floats;
mod shadow;
mod tokens;
mod vector;

use half::f16;

use super::{Isa, Kernels};
use crate::quant::testing::Rng;

impl Rng {
    fn floats(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| self.symmetric() * size).collect()
    }

    fn halves(&mut self, n: usize) -> Vec<f16> {
        (0..n).map(|_| f16::from_f32(self.symmetric() * 3.0)).collect()
    }

    /// Values an f16 can hold.
    fn rounded(&mut self, n: usize) -> Vec<f32> {
        self.halves(n).into_iter().map(f16::to_f32).collect()
    }
}

/// Every table but the scalar one.
fn others() -> Vec<&'static Kernels> {
    Kernels::all().into_iter().filter(|k| k.isa() != Isa::Scalar).collect()
}

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

#[track_caller]
fn assert_bits(got: &[f32], expected: &[f32], what: std::fmt::Arguments<'_>) {
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan()),
            "{what}: value {i} is {g} ({:#010x}), scalar has {e} ({:#010x})",
            g.to_bits(),
            e.to_bits()
        );
    }
    assert_eq!(got.len(), expected.len(), "{what}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own switch, never read by the engine")]
fn the_instruction_sets_that_ci_names_are_here() {
    let Ok(names) = std::env::var("BITNET_REQUIRE_ISA") else { return };
    for name in names.split(',') {
        let here: Vec<&str> = Kernels::all().into_iter().map(Kernels::name).collect();
        assert!(here.contains(&name), "{name} is required, this machine has {here:?}");
    }
}
