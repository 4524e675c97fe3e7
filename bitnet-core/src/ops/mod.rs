//! The f32 operations between the matrices: plain loops in the one canonical order.
//!
//! Each is written once, here, and compiled once for each instruction set by [`crate::kernels`], where the
//! compiler widens the loops. It may not reassociate a float sum, so all of them give the same bits: a fused
//! multiply-add is written `mul_add`, anything else rounds after every operation.

pub mod activation;
pub mod dot32;
pub mod exp;
pub mod rms_norm;
pub mod rope;
pub mod round;
pub mod screen;
pub mod softmax;
