//! Hugging Face checkpoints to GGUF: what every publisher's layout means, checked against models whose logits are
//! known, and what happens to checkpoints that are damaged or of another kind.
//!
//! The checkpoints are written here, by code that shares nothing with the converter.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod checkpoint;
mod golden;
mod hostile;
mod publishers;
mod vocabulary;
mod weights;

use std::path::Path;

use bitnet_core::gguf::{Access, Gguf};
use bitnet_core::hf::{Checkpoint, ConvertOptions};
use bitnet_core::{LoadOptions, Model, Result, Session, SessionOptions};

/// The file that `dir` becomes, with the usual options.
fn convert(dir: &Path) -> Result<Gguf> {
    convert_with(dir, &ConvertOptions::default())
}

fn convert_with(dir: &Path, options: &ConvertOptions) -> Result<Gguf> {
    let out = dir.join("out.gguf");
    Checkpoint::open(dir, options)?.write(&out, &mut |_, _| true)?;
    Gguf::open(&out, Access::Map)
}

/// Why `dir` cannot be converted, in one line.
#[track_caller]
fn refusal(dir: &Path) -> String {
    let error = convert(dir).expect_err("a refusal").to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&format!("{}/", dir.display()), "")
}

/// The bits of every logit of every position.
fn logits(gguf: Gguf, tokens: &[u32]) -> Vec<u32> {
    let model = Model::from_gguf(gguf, &LoadOptions::default()).unwrap();
    let options = SessionOptions { n_threads: Some(1), ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut bits = Vec::new();
    session.score(tokens, |_, row| bits.extend(row.iter().map(|logit| logit.to_bits()))).unwrap();
    bits
}

/// A small seeded generator: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn unit(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 20) as f32
    }

    fn codes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.below(3) as i8 - 1).collect()
    }
}
