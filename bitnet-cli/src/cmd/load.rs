//! From flags to a model that can compute.

use std::path::Path;
use std::time::{Duration, Instant};

use bitnet_core::{Access, Isa, LoadOptions, Model, SessionOptions, Tokenizer};

use crate::args::ModelArgs;
use crate::exit::Failure;

/// A model with the vocabulary it is to use.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    /// `None`: the file has none, and no other was given.
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) time: Duration,
}

/// Loads the model at `path` and its vocabulary.
pub(crate) fn load(path: &Path, args: &ModelArgs) -> Result<Loaded, Failure> {
    let start = Instant::now();
    let model = load_model(path, args)?;
    let tokenizer = Tokenizer::for_model(model.gguf(), args.tokenizer.as_deref(), args.pre.as_deref())?;
    Ok(Loaded { model, tokenizer, time: start.elapsed() })
}

/// The model alone, for verbs that need no text.
pub(crate) fn load_model(path: &Path, args: &ModelArgs) -> Result<Model, Failure> {
    let options = LoadOptions {
        isa: args.isa.map(|name| Isa::from_name(name).expect("the parser takes names the engine knows")),
        access: if args.no_mmap { Access::Read } else { Access::Map },
    };
    Ok(Model::load(path, &options)?)
}

/// A session's options as the flags say.
pub(crate) fn session_options(args: &ModelArgs) -> SessionOptions {
    SessionOptions { n_ctx: args.n_ctx, n_threads: args.n_threads, n_batch: args.n_batch }
}
