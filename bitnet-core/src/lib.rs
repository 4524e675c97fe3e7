//! Ternary-weight (1.58-bit) language models on ordinary CPUs, bit for bit.
//!
//! The crate is a house read bottom to top; a module imports only from those above it in this list:
//!
//! - `gguf`: bytes to metadata and tensor directory, and back
//! - `quant`: number formats
//! - `kernels`: slices in, slices out, one file per instruction set
//! - `ops`: norms, rotary embedding, softmax, activations
//! - `model`: a file's claims, checked, become typed weights
//! - `forward`: the network for one step; reads like the paper
//! - `tokenizer`, `sampler`, `session`: text in, text out

pub mod error;
pub mod gguf;
pub mod kernels;
pub mod ops;
pub mod quant;

pub use error::{Error, Result};

/// A token's number in the vocabulary.
pub type TokenId = u32;
