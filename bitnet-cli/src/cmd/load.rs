//! From flags to a model that can compute.

use std::fs::File;
use std::path::Path;
#[cfg(feature = "full-cli")]
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitnet_core::gguf::Gguf;
use bitnet_core::hf::{Checkpoint, ConvertOptions};
use bitnet_core::quant::ternary::{I2sLayout, Reading};
use bitnet_core::quant::tl_tiles::TileTable;
use bitnet_core::{Access, Error, LoadOptions, Model, SessionOptions, Tokenizer};

#[cfg(feature = "full-cli")]
use crate::args::Prompt;
use crate::args::{ModelArgs, ReadingArgs};
use crate::cmd::prompt;
use crate::demo;
use crate::exit::Failure;
use crate::progress::Progress;
#[cfg(feature = "full-cli")]
use crate::receipt;

/// More than any file of tile sizes has: bitnet.cpp's are of a few hundred bytes.
const MAX_TILES_MIB: u64 = 1;

/// A model with the vocabulary it is to use.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    /// `None`: the file has none, and no other was given.
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) time: Duration,
}

/// Loads the model that the flags name, or the one inside the binary, and its vocabulary.
pub(crate) fn load(args: &ModelArgs) -> Result<Loaded, Failure> {
    let start = Instant::now();
    let named = args.model.as_ref().filter(|_| !args.quiet);
    let _word = named.and_then(|path| Progress::word(format!("loading {}", path.display())));
    let model = match &args.model {
        Some(path) => load_model(path, args)?,
        None => load_demo(args)?,
    };
    // A checkpoint's own tokenizer.json is the better source: no rule for cutting text had to be guessed.
    let own = || args.model.as_deref().and_then(Checkpoint::tokenizer_at);
    let file = args.tokenizer.clone().or_else(own);
    let tokenizer = Tokenizer::for_model(model.gguf(), file.as_deref(), args.pre.as_deref())?;
    Ok(Loaded { model, tokenizer, time: start.elapsed() })
}

/// The model alone, for verbs that need no text.
pub(crate) fn load_model(path: &Path, args: &ModelArgs) -> Result<Model, Failure> {
    let options = load_options(args)?;
    if !Checkpoint::is_at(path) {
        return Ok(Model::load(path, &options)?);
    }
    usual_order(args, &format!("{} is a checkpoint, whose weights are put in order a", path.display()))?;
    Ok(Model::from_gguf(checkpoint(path, args.quiet)?, &options)?)
}

/// Refuses to read codes in the other order where they are known to be in the usual one: it would be another model.
fn usual_order(args: &ModelArgs, why: &str) -> Result<(), Failure> {
    match args.reading.i2s {
        I2sLayout::A => Ok(()),
        I2sLayout::B => {
            Err(Failure::misuse("--i2s-layout b", &format!("{why}; the flag is for GGUF files that have b")))
        }
    }
}

/// A model that must be a file, for verbs that say what is in it.
#[cfg(feature = "full-cli")]
pub(super) fn file(path: &Path) -> Result<Gguf, Failure> {
    if Checkpoint::is_at(path) {
        return Err(Failure::Engine(Error::Malformed {
            path: path.to_owned(),
            item: "model".into(),
            expected: "a GGUF file".into(),
            found: "the directory of a checkpoint, of which `bitnet convert` makes one".into(),
        }));
    }
    Ok(Gguf::open(path, Access::Map)?)
}

/// A Hugging Face checkpoint, converted into memory.
fn checkpoint(dir: &Path, quiet: bool) -> Result<Gguf, Failure> {
    let checkpoint = Checkpoint::open(dir, &ConvertOptions::default())?;
    let mut progress = if quiet { None } else { Progress::new(format!("loading {}", dir.display())) };
    Ok(checkpoint.load(&mut |done, total| {
        if let Some(progress) = &mut progress {
            progress.show(done, total);
        }
    })?)
}

/// The model inside the binary.
pub(crate) fn load_demo(args: &ModelArgs) -> Result<Model, Failure> {
    usual_order(args, "the demo model is in order a")?;
    Ok(Model::from_gguf(demo::open()?, &load_options(args)?)?)
}

/// A model as a receipt names it; `None` is the one inside the binary.
#[cfg(feature = "full-cli")]
pub(crate) fn identity(path: Option<&Path>) -> Result<serde_json::Value, Failure> {
    match path {
        Some(dir) if Checkpoint::is_at(dir) => receipt::files_identity(dir, Checkpoint::files(dir)),
        Some(path) => match Gguf::open(path, Access::Map)?.shards() {
            [_] => receipt::file_identity(path),
            shards => receipt::files_identity(path, shards.iter().map(|shard| &shard.path)),
        },
        None => receipt::identity(Path::new(demo::NAME), demo::bytes()),
    }
}

/// The files that a run on `model` with these flags reads.
#[cfg(feature = "full-cli")]
pub(super) fn files(model: Option<&Path>, args: &ModelArgs) -> Vec<PathBuf> {
    let mut files = match model {
        Some(dir) if Checkpoint::is_at(dir) => Checkpoint::files(dir),
        // One that cannot be opened will be refused with a reason.
        Some(path) => {
            Gguf::open(path, Access::Map).map_or_else(|_| vec![path.to_owned()], |gguf| shards(&gguf))
        }
        None => Vec::new(),
    };
    files.extend(args.tokenizer.clone().into_iter().chain(args.reading.tl_config.clone()));
    files
}

/// The same with that of the prompt, if it is in one.
#[cfg(feature = "full-cli")]
pub(super) fn files_and_prompt(args: &ModelArgs, prompt: &Prompt) -> Vec<PathBuf> {
    let mut files = files(args.model.as_deref(), args);
    if let Prompt::File(path) = prompt {
        files.push(path.clone());
    }
    files
}

/// The files of a model.
#[cfg(feature = "full-cli")]
pub(super) fn shards(gguf: &Gguf) -> Vec<PathBuf> {
    gguf.shards().iter().map(|shard| shard.path.clone()).collect()
}

fn load_options(args: &ModelArgs) -> Result<LoadOptions, Failure> {
    Ok(LoadOptions {
        isa: args.isa,
        access: if args.no_mmap { Access::Read } else { Access::Map },
        placement: args.placement,
        n_threads: args.n_threads,
        reading: reading(&args.reading)?,
    })
}

/// What the flags say about ternary tensors, the file of tile sizes read.
pub(super) fn reading(args: &ReadingArgs) -> Result<Reading, Failure> {
    let tiles = args.tl_config.as_deref().map(|path| {
        let what = format!("--tl-config {}", path.display());
        let file = File::open(path);
        let file = file.map_err(|source| Error::Io { path: path.to_owned(), action: "open", source })?;
        let text = prompt::read(&what, file, path, MAX_TILES_MIB)?;
        TileTable::parse(&text).map_err(|e| Failure::misuse(&what, &e.to_string()))
    });
    Ok(Reading { i2s: args.i2s, tiles: tiles.transpose()? })
}

/// A session's options as the flags say.
pub(crate) fn session_options(args: &ModelArgs) -> SessionOptions {
    SessionOptions { n_ctx: args.n_ctx, n_threads: args.n_threads, n_batch: args.n_batch }
}
