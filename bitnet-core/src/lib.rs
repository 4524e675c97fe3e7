//! Ternary-weight (1.58-bit) language models on ordinary CPUs, bit for bit.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use bitnet_core::{Detokenizer, Sampler, SamplerOptions, Session, SessionOptions, Tokenizer};
//! use bitnet_core::{GenerateOptions, LoadOptions, Model};
//!
//! # fn main() -> bitnet_core::Result<()> {
//! let model = Model::load(Path::new("model.gguf"), &LoadOptions::default())?;
//! let tokenizer = Tokenizer::for_model(model.gguf(), None, None)?.expect("a file with a vocabulary");
//! let mut session = Session::new(&model, &SessionOptions::default())?;
//! let mut sampler = Sampler::new(SamplerOptions::greedy())?;
//!
//! let prompt = tokenizer.encode("The capital of France is", tokenizer.adds_bos())?;
//! let options = GenerateOptions {
//!     max_tokens: Some(32),
//!     end_tokens: tokenizer.end_tokens(),
//!     ..GenerateOptions::default()
//! };
//! let mut text = Detokenizer::continuing(&tokenizer);
//! for generated in session.generate(&prompt, &mut sampler, options) {
//!     print!("{}", text.push(generated?.token)); // whole characters only
//! }
//! println!("{}", text.finish());
//! # Ok(())
//! # }
//! ```
//!
//! Modules build on each other. Each imports only from those above it in this list, and from `error` and `rng`, which are
//! open to all:
//!
//! - [`gguf`]: bytes to metadata and tensor directory, and back
//! - [`pages`]: memory in large pages, and memory aligned to cache lines
//! - [`quant`]: number formats
//! - [`ops`]: norms, rotary embedding, softmax, activations: plain loops in the canonical order
//! - [`kernels`]: slices in, slices out, one file for each instruction set
//! - [`team`]: the threads, and how work is cut for them
//! - [`model`]: a file's claims, checked, become typed weights
//! - [`kv_cache`], [`attention`], [`forward`]: the network for one step; reads like the paper
//! - [`tokenizer`], [`sampler`], [`session`]: text to ids and back, the choice among logits, a text in progress
//! - [`parity`]: logs of tokens and their logits, and how two of them differ
//! - [`generate`]: evaluate, choose, repeat
//! - [`hf`]: Hugging Face checkpoints become GGUF files, or models in memory
//! - [`quantize`]: a model's matrices in another number format; [`verify`]: every ternary weight looked at once
//! - [`synth`]: made-up models of real shapes; [`probe`]: what the machine can do
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
mod rng;
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
pub use model::{LoadOptions, Model, Placement, WantedLogits};
pub use sampler::{Sampler, SamplerOptions};
pub use session::{Session, SessionOptions};
pub use tokenizer::{Detokenizer, Tokenizer};

/// A token's number in the vocabulary.
pub type TokenId = u32;
