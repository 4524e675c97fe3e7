//! Slices in, slices out: the arithmetic of one instruction set at a time, chosen once.
//!
//! [`Kernels`] is a table of functions. [`Kernels::detect`] picks the best table this CPU runs,
//! [`Kernels::for_isa`] a named one; the table is handed down by reference, so no loop asks again. The methods
//! check shapes once and the functions rely on it. Every table gives the same bits as `scalar.rs`; the battery in
//! `battery/` runs each of them against it.
//!
//! | file | holds |
//! |---|---|
//! | `isa.rs` | the names, and which table a CPU gets |
//! | `table.rs` | the table and its methods |
//! | `ternary.rs` | its methods for ternary matrices |
//! | `tiles.rs` | how the activations of several tokens lie in memory for a matrix product |
//! | `paired.rs` | what those activations are where one multiplication makes two products |
//! | `prepared.rs` | what is made of a matrix's rows before many tokens are multiplied with them |
//! | `tri5.rs` | products with weights five to a byte, where no kernel reads them as they are |
//! | `values.rs` | how the values of past positions lie in memory for attention |
//! | `scalar.rs` | the definition |
//! | `elementwise.rs` | the plain loops that every instruction set compiles for itself |
//! | `self_test.rs` | every kernel executed on this CPU, for `bitnet doctor` |
//! | `avx2.rs`, `avx512.rs`, `neon.rs` | the same functions for one instruction set |
//! | `avx2f16.rs`, `avx512f16.rs`, `neonf16.rs` | products of f16 values: the head and attention |
//! | `avx2tri5.rs` | AVX2 with five weights to a byte: products with one vector, unpacking |
//! | `avx2sums.rs` | the AVX2 product of a ternary matrix with many tokens, its sums looked up |
//! | `avxvnni.rs` | what AVX-VNNI makes faster of AVX2: products of integers |
//! | `avx512gemm.rs` | the AVX-512 product of a ternary matrix with many tokens, in two ways |
//! | `avx512quotient.rs` | division by multiplications, for the results of that product |
//! | `avx512weigh.rs` | which of the two is faster here |
//! | `avx512vbmi.rs` | what VBMI makes faster of AVX-512: products of five weights to a byte |

cfg_if! {
    if #[cfg(all(feature = "cpu", target_arch = "x86_64"))] {
        mod avx2;
        mod avx2f16;
        mod avx2sums;
        mod avx2tri5;
        mod avx512;
        mod avx512f16;
        mod avx512gemm;
        mod avx512quotient;
        mod avx512vbmi;
        mod avx512weigh;
        mod avxvnni;
    } else if #[cfg(all(feature = "cpu", target_arch = "aarch64"))] {
        mod neon;
        mod neonf16;
    }
}
#[cfg(test)]
mod battery;
mod elementwise;
mod isa;
pub mod paired;
pub mod prepared;
mod scalar;
mod self_test;
mod table;
mod ternary;
mod tiles;
mod tri5;
pub mod values;

use cfg_if::cfg_if;

pub use isa::Isa;
pub use self_test::self_test;
pub use table::Kernels;
pub use tiles::{ActTiles, TileMut, Tiling, Tokens};
pub use values::Values;

use elementwise::elementwise;
