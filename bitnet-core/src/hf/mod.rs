//! Hugging Face checkpoints to GGUF: a directory of safetensors and JSON becomes one model file, or one in memory.
//!
//! Start at [`Checkpoint`]. `config` reads the hyperparameters, `safetensors` the weights' container, `plan` decides
//! what each tensor becomes, `weights` makes its bytes, `vocabulary` turns `tokenizer.json` into a GGUF vocabulary;
//! `object` is what they all read JSON with.
//!
//! | checkpoint | weights | what happens |
//! |---|---|---|
//! | microsoft/bitnet-b1.58-2B-4T | packed, `linear_class` autobitlinear | unpacked, scale multiplies |
//! | HF1BitLLM Llama3-8B-1.58, tiiuae Falcon3-1.58bit and Falcon-E | packed | unpacked, scale divides; rows of q and k permuted |
//! | microsoft/bitnet-b1.58-2B-4T-bf16, 1bitLLM/bitnet_b1_58 | floats | rounded by the absmean rule |
//!
//! Ternary matrices become I2_S; those whose rows are no multiple of 128 (bitnet_b1_58-3B has some) become IQ2_BN,
//! which holds the same codes and the same `f32` scale. Nothing else is rounded but the embeddings, to
//! [`ConvertOptions::embd`].

mod config;
mod object;
mod plan;
mod safetensors;
mod vocabulary;
mod weights;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufWriter, Target, TensorWriter};
use crate::model::Arch;
use crate::quant::dense::DenseType;
use crate::tokenizer::PreSplit;
use config::HfConfig;
use plan::{Plan, Source, Stored};
use safetensors::Safetensors;
use vocabulary::HfVocabulary;

/// How a checkpoint is converted.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The format of embeddings and output matrix; one of those that [`DenseType::can_quantize`] names.
    pub embd: DenseType,
    /// Rounds float projections by the absmean rule even if `config.json` does not call for it.
    pub absmean: bool,
    /// Name of the rule that cuts text into words, instead of the one that reproduces `tokenizer.json`.
    pub pre: Option<String>,
}

impl Default for ConvertOptions {
    /// F16 as in published files, nothing rounded unasked.
    fn default() -> ConvertOptions {
        ConvertOptions { embd: DenseType::F16, absmean: false, pre: None }
    }
}

/// The files of a checkpoint whose names are fixed: all but the shards of the weights, which an index names.
const NAMES: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

/// A checkpoint whose every tensor has been found, checked and given its place in the file to be.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Safetensors,
    config: HfConfig,
    plan: Plan,
    vocabulary: Option<HfVocabulary>,
    pre: Option<String>,
}

impl Checkpoint {
    /// Whether `path` is a directory that claims to hold a checkpoint.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        path.is_dir() && path.join("config.json").exists()
    }

    /// The `tokenizer.json` of a checkpoint, if it has one.
    #[must_use]
    pub fn tokenizer_at(path: &Path) -> Option<PathBuf> {
        let file = path.join("tokenizer.json");
        (Checkpoint::is_at(path) && file.exists()).then_some(file)
    }

    /// The files that a checkpoint in `dir` is read from, in the order of their names. The weights are left out if they
    /// cannot be opened.
    #[must_use]
    pub fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = NAMES.iter().map(|name| dir.join(name)).collect();
        files.retain(|file| file.is_file());
        files.extend(Safetensors::open(dir).iter().flat_map(|weights| weights.paths()).map(Path::to_owned));
        files.sort();
        files.dedup();
        files
    }

    /// Reads the JSON files and the headers of the weights, and plans every tensor.
    ///
    /// # Errors
    /// If a file cannot be read or contradicts itself or another, a tensor is missing, surplus, of another shape or
    /// format, or the model is one that no architecture here computes.
    pub fn open(dir: &Path, options: &ConvertOptions) -> Result<Checkpoint> {
        if !options.embd.can_quantize() {
            let reason = "expected one of f32, f16, bf16, q8_0, q6_k".into();
            return Err(Error::Invalid { what: format!("--embd {}", options.embd), reason });
        }
        if let Some(name) = options.pre.as_deref().filter(|name| PreSplit::from_name(name).is_none()) {
            let reason = format!("expected one of {}", PreSplit::names());
            return Err(Error::Invalid { what: format!("--pre {name}"), reason });
        }
        let config = HfConfig::read(dir)?;
        let files = Safetensors::open(dir)?;
        let plan = Plan::new(&config, &files, options)?;
        let vocabulary = HfVocabulary::read(dir, &config)?;
        if options.pre.is_some() {
            match &vocabulary {
                Some(vocabulary) => vocabulary.check_has_rule()?,
                None => return Err(PreSplit::irreplaceable(dir, "has no vocabulary")),
            }
        }
        Ok(Checkpoint { dir: dir.to_owned(), files, config, plan, vocabulary, pre: options.pre.clone() })
    }

    /// The architecture it is written as.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.plan.arch
    }

    /// Number of tokens, if there is a vocabulary.
    #[must_use]
    pub fn n_tokens(&self) -> Option<usize> {
        self.vocabulary.as_ref().map(HfVocabulary::n_tokens)
    }

    /// How many matrices are of each kind: what happens to them, in words, and their number.
    #[must_use]
    pub fn matrices(&self) -> Vec<(String, usize)> {
        let direction = if self.config.weights.scale_multiplies { "multiplies" } else { "divides" };
        let mut kinds: Vec<(String, usize)> = Vec::new();
        for tensor in &self.plan.tensors {
            let Source::Ternary { stored, .. } = &tensor.from else { continue };
            let from = match stored {
                Stored::Packed { .. } => format!("unpacked, weight_scale {direction}"),
                Stored::Ternary { .. } => "ternary floats taken as they are".to_owned(),
                Stored::Absmean { unless_ternary: false } => "rounded by the absmean rule".to_owned(),
                Stored::Absmean { unless_ternary: true } => {
                    "rounded by the absmean rule unless ternary already".to_owned()
                }
            };
            let kind = format!("{from}, to {}", tensor.ty);
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, n)) => *n += 1,
                None => kinds.push((kind, 1)),
            }
        }
        kinds
    }

    /// Writes a GGUF file, which takes its place at `target` once it is whole.
    ///
    /// `progress` is told the bytes written and the bytes to be written, now and then; when it returns false, this ends
    /// with an error of the kind `Interrupted`.
    ///
    /// # Errors
    /// If weights are not what the plan took them for, no rule for cutting text reproduces `tokenizer.json`, or the
    /// system refuses. The file is then as it was before.
    pub fn write<'a>(
        &self,
        target: impl Into<Target<'a>>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let target = target.into();
        let pre = match (&self.vocabulary, &self.pre) {
            (Some(_), Some(name)) => Some(name.clone()),
            (Some(vocabulary), None) => vocabulary.rule()?.map(str::to_owned),
            (None, _) => None,
        };
        let writer = self.header(pre.as_deref())?;
        let total = writer.tensor_bytes();
        let mut go_on = |done| match progress(done, total) {
            true => Ok(()),
            false => Err(Error::Io {
                path: target.path.to_owned(),
                action: "write",
                source: ErrorKind::Interrupted.into(),
            }),
        };
        writer.write_file(target, |out| self.tensors(out, &mut go_on))
    }

    /// The same model in memory. Its vocabulary names no rule for cutting text: use [`Checkpoint::tokenizer_at`].
    ///
    /// # Errors
    /// If weights are not what the plan took them for, or there is not enough memory.
    pub fn load(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Gguf> {
        let writer = self.header(self.pre.as_deref())?;
        let total = writer.tensor_bytes();
        let mut go_on = |done| {
            progress(done, total);
            Ok(())
        };
        Gguf::in_memory(&self.dir, writer, |out| self.tensors(out, &mut go_on))
    }

    /// Metadata and the declaration of every tensor.
    fn header(&self, pre: Option<&str>) -> Result<GgufWriter> {
        let mut writer = GgufWriter::new();
        let absolute = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        let name = absolute.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        self.config.describe(self.plan.arch, &name, &mut writer)?;
        if let Some(vocabulary) = &self.vocabulary {
            vocabulary.describe(pre, &mut writer)?;
        }
        for tensor in &self.plan.tensors {
            writer.declare(&tensor.name, tensor.ty, &tensor.shape)?;
        }
        Ok(writer)
    }

    /// The bytes of every tensor; `go_on` is told how many are done.
    fn tensors<W: Write>(
        &self,
        out: &mut TensorWriter<W>,
        go_on: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        for tensor in &self.plan.tensors {
            weights::write(&self.files, tensor, out, &mut |n| {
                done += n as u64;
                go_on(done)
            })?;
        }
        Ok(())
    }
}
