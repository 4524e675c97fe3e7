//! The flags that say which model to load and how to compute: the same for every verb that runs one.

use std::path::PathBuf;

use bitnet_core::quant::ternary::I2sLayout;
use bitnet_core::{Isa, Placement, SamplerOptions};

use super::line::Line;
use crate::exit::Failure;

/// The engine's own bounds, refused here before a model is loaded.
pub(super) use bitnet_core::model::MAX_POSITIONS;
pub(super) use bitnet_core::team::MAX_THREADS;

/// Instruction sets by the names the engine knows; `auto` takes the best this CPU has.
pub(super) const ISAS: &[(&str, Option<Isa>)] = &[
    ("auto", None),
    ("scalar", Some(Isa::Scalar)),
    ("avx2", Some(Isa::Avx2)),
    ("avx512", Some(Isa::Avx512)),
    ("neon", Some(Isa::Neon)),
];

/// Where ternary weights are computed with.
pub(super) const PLACEMENTS: &[(&str, Placement)] = &[
    ("auto", Placement::Auto),
    ("map", Placement::Map),
    ("2bit", Placement::Copy),
    ("tri5", Placement::Tri5),
];

/// The word of `--weights` for it.
#[cfg(feature = "full-cli")]
pub(crate) fn word_of(placement: Placement) -> &'static str {
    let found = PLACEMENTS.iter().find(|(_, named)| *named == placement);
    found.expect("every placement has a word").0
}

/// Which model, and how it is to compute.
#[derive(Debug, Default)]
pub(crate) struct ModelArgs {
    /// The GGUF file, or the directory of a checkpoint; without one, the demo model inside the binary.
    pub(crate) model: Option<PathBuf>,
    /// A `tokenizer.json` to use instead of the file's own vocabulary.
    pub(crate) tokenizer: Option<PathBuf>,
    /// Pre-split rule of the vocabulary, instead of the one the file names.
    pub(crate) pre: Option<String>,
    /// Instruction set, or the best there is.
    pub(crate) isa: Option<Isa>,
    /// Positions of the context.
    pub(crate) n_ctx: Option<usize>,
    /// Threads.
    pub(crate) n_threads: Option<usize>,
    /// Prompt tokens computed together.
    pub(crate) n_batch: Option<usize>,
    /// Read the file instead of mapping it.
    pub(crate) no_mmap: bool,
    /// Where ternary weights are.
    pub(crate) placement: Placement,
    /// How its ternary tensors are to be read.
    pub(crate) reading: ReadingArgs,
    /// Load it without a word.
    pub(crate) quiet: bool,
}

/// What a file does not say about its ternary tensors.
#[derive(Debug, Default)]
pub(crate) struct ReadingArgs {
    /// The order of the codes in I2_S tensors.
    pub(crate) i2s: I2sLayout,
    /// A `kernel_config.ini` with the tile sizes of TL1 and TL2 tensors.
    pub(crate) tl_config: Option<PathBuf>,
}

impl ReadingArgs {
    /// Takes what the verb's flags allow.
    pub(super) fn parse(line: &Line) -> Result<Self, Failure> {
        Ok(ReadingArgs {
            i2s: line
                .choice("--i2s-layout", &[("a", I2sLayout::A), ("b", I2sLayout::B)])?
                .unwrap_or_default(),
            tl_config: line.path("--tl-config")?,
        })
    }
}

/// `--ctx-size`; 0 is the model's own, as no flag is.
pub(super) fn n_ctx(line: &Line) -> Result<Option<usize>, Failure> {
    Ok(line.number("--ctx-size", 0..=MAX_POSITIONS)?.filter(|&n| n > 0))
}

impl ModelArgs {
    /// Takes what the verb's flags allow; a flag the verb does not list cannot be on the line.
    pub(super) fn parse(line: &Line) -> Result<Self, Failure> {
        Ok(ModelArgs {
            model: line.path("--model")?,
            tokenizer: line.path("--tokenizer")?,
            pre: line.text("--pre")?,
            isa: line.choice("--isa", ISAS)?.flatten(),
            n_ctx: n_ctx(line)?,
            n_threads: line.number("--threads", 1..=MAX_THREADS)?,
            n_batch: line.number("--batch-size", 1..=MAX_POSITIONS)?,
            no_mmap: line.has("--no-mmap"),
            placement: line.choice("--weights", PLACEMENTS)?.unwrap_or_default(),
            reading: ReadingArgs::parse(line)?,
            quiet: line.has("--quiet"),
        })
    }

    /// Refuses a line that names no model, unless the binary brings one.
    pub(super) fn check(&self, verb: &str) -> Result<(), Failure> {
        if self.model.is_some() || cfg!(feature = "demo") {
            return Ok(());
        }
        Err(Failure::misuse(
            "--model",
            &format!("expected a GGUF file, as in `bitnet {verb} -m model.gguf ...`"),
        ))
    }

    /// How tokens are chosen unless flags say otherwise: `usual`, but greedily by the demo model, whose answers are
    /// right or wrong.
    pub(crate) fn sampler_default(&self, usual: SamplerOptions) -> SamplerOptions {
        if self.model.is_none() { SamplerOptions { temperature: 0.0, ..usual } } else { usual }
    }
}
