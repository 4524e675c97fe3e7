//! Ternary-weight (1.58-bit) language models on ordinary CPUs, bit for bit.
//!
//! The crate is a house read bottom to top; a module imports only from those above it in this list (`error` is
//! open to all):
//!
//! - [`gguf`]: bytes to metadata and tensor directory, and back
//! - [`pages`]: memory in large pages, and from cache lines on
//! - [`quant`]: number formats
//! - [`ops`]: norms, rotary embedding, softmax, activations: plain loops in the canonical order
//! - [`kernels`]: slices in, slices out, one file for each instruction set
//! - [`team`]: the threads, and how work is cut for them
//! - [`model`]: a file's claims, checked, become typed weights
//! - [`kv_cache`], [`attention`], [`forward`]: the network for one step; reads like the paper
//! - [`tokenizer`], [`sampler`], [`session`]: text to ids and back, the choice among logits, a text in progress
//! - [`generate`]: evaluate, choose, repeat
//! - [`hf`]: Hugging Face checkpoints become GGUF files, or models in memory
//! - [`quantize`]: a model's matrices in another number format; [`verify`]: every ternary weight looked at once
//! - [`synth`]: made-up models of real shapes; [`parity`]: comparing logs of logits; [`probe`]: what the machine can do
//!
//! [`trace`] is the run-time half of the annotations, open to all.

// The macros' expansions say `::bitnet_core`, here as elsewhere.
extern crate self as bitnet_core;

pub mod attention;
pub mod error;
pub mod forward;
pub mod generate;
pub mod gguf;
pub mod hf;
pub mod kernels;
pub mod kv_cache;
pub mod model;
pub mod ops;
pub mod pages;
pub mod parity;
pub mod probe;
pub mod quant;
pub mod quantize;
pub mod sampler;
pub mod session;
pub mod synth;
pub mod team;
pub mod tokenizer;
pub mod trace;
pub mod verify;

pub use error::{Error, Result};
pub use generate::{GenerateOptions, Generated, Generation, StopReason};
pub use gguf::Access;
pub use kernels::Isa;
pub use model::{LoadOptions, Logits, Model, Placement, Sifted, Skipped};
pub use sampler::{Sampler, SamplerOptions};
pub use session::{Session, SessionOptions};
pub use tokenizer::Tokenizer;

/// A token's number in the vocabulary.
pub type TokenId = u32;
