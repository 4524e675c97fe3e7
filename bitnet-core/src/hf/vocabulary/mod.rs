//! `tokenizer.json`, or `tokenizer.model`, and their companions to the vocabulary of a GGUF file.
//!
//! `parts` reads `tokenizer.json`, `sentencepiece` reads `tokenizer.model`, `settings` the files around them. A GGUF
//! file names the rule that cuts text into words, where a `tokenizer.json` spells it out: `rule` finds the name.

mod parts;
mod rule;
mod sentencepiece;
mod settings;

use std::path::{Path, PathBuf};

use super::config::HfConfig;
use super::object::{malformed, regular};
use crate::TokenId;
use crate::error::{Error, Result};
use crate::gguf::{ArrayBuf, GgufWriter, Value};
use crate::tokenizer::{PreSplit, SPM_HAS_NO_RULE, Tokenizer, VocabModel, Vocabulary};
use parts::Parts;
use settings::Settings;

/// Of a token, which a GGUF file takes no longer. Those of a `tokenizer.json` have a lower limit.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// The token types of a GGUF file.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// A checkpoint's vocabulary, in a GGUF file's terms.
#[derive(Debug)]
pub(super) struct HfVocabulary {
    file: PathBuf,
    vocabulary: Vocabulary,
    padding: Option<TokenId>,
    /// The rule in `tokenizer.json`, as text.
    pre_tokenizer: Option<String>,
}

impl HfVocabulary {
    /// Reads the vocabulary in `dir`; `None` without a `tokenizer.json` and a `tokenizer.model`.
    pub(super) fn read(dir: &Path, config: &HfConfig) -> Result<Option<HfVocabulary>> {
        let settings = Settings::read(dir, config)?;
        let json = dir.join("tokenizer.json");
        let model = dir.join("tokenizer.model");
        let mut read = if json.exists() {
            HfVocabulary::from_json(json, config, &settings)?
        } else if model.exists() {
            HfVocabulary::from_sentencepiece(model, config, &settings)?
        } else {
            return Ok(None);
        };
        read.vocabulary.chat_template = settings.chat_template(dir)?;
        Ok(Some(read))
    }

    fn from_json(file: PathBuf, config: &HfConfig, settings: &Settings) -> Result<HfVocabulary> {
        regular(&file)?;
        // Refuses what is no BPE, and knows which token the post-processor puts first.
        let json = Tokenizer::from_file(&file, None)?;
        let parts = Parts::read(&file)?;
        let mut vocabulary = parts.vocabulary(&file, config)?;
        let id_of = |text: Option<String>| text.and_then(|text| parts.id_of(&text));
        let padding = settings.name_tokens(&mut vocabulary, parts.unk_token.clone(), id_of);
        vocabulary.bos = json.bos().or(vocabulary.bos);
        vocabulary.add_bos = Some(json.adds_bos() || settings.adds_bos()?);
        if vocabulary.model == VocabModel::Spm {
            let ids = json.encode("a", false).map_err(|error| of_file(error, &file))?;
            let first = ids.first().and_then(|&id| json.token_bytes(id).first());
            vocabulary.add_space_prefix = Some(first == Some(&b' '));
        }
        Ok(HfVocabulary { file, vocabulary, padding, pre_tokenizer: Some(parts.pre_tokenizer) })
    }

    fn from_sentencepiece(file: PathBuf, config: &HfConfig, settings: &Settings) -> Result<HfVocabulary> {
        let mut vocabulary = sentencepiece::read(&file, config.n_vocab, &settings.added_tokens()?)?;
        let tokens = vocabulary.tokens.clone();
        let id_of = |text: Option<String>| {
            let at = text.and_then(|text| tokens.iter().position(|token| *token == text.as_bytes()));
            at.map(|id| id as TokenId)
        };
        let unk = vocabulary.types.iter().position(|ty| *ty == token_type::UNKNOWN);
        let padding = settings.name_tokens(&mut vocabulary, None, id_of);
        vocabulary.unk = unk.map(|id| id as TokenId).or(vocabulary.unk);
        vocabulary.add_bos = Some(settings.bool("add_bos_token")?.unwrap_or(true));
        Ok(HfVocabulary { file, vocabulary, padding, pre_tokenizer: None })
    }

    /// Refuses a `--pre` where no rule cuts texts into words.
    pub(super) fn check_has_rule(&self) -> Result<()> {
        match self.vocabulary.model {
            VocabModel::Bpe => Ok(()),
            VocabModel::Spm => Err(PreSplit::irreplaceable(&self.file, SPM_HAS_NO_RULE)),
        }
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// Sets the keys of the vocabulary.
    pub(super) fn describe(&self, pre: Option<&str>, writer: &mut GgufWriter) -> Result<()> {
        let v = &self.vocabulary;
        let spm = v.model == VocabModel::Spm;
        writer.set("tokenizer.ggml.model", Value::Str(if spm { b"llama" } else { b"gpt2" }))?;
        if let Some(pre) = pre.filter(|_| !spm) {
            writer.set("tokenizer.ggml.pre", Value::Str(pre.as_bytes()))?;
        }
        writer.set("tokenizer.ggml.tokens", ArrayBuf::strings(&v.tokens).value())?;
        if spm {
            writer.set("tokenizer.ggml.scores", ArrayBuf::f32s(v.scores.iter().copied()).value())?;
        }
        writer.set("tokenizer.ggml.token_type", ArrayBuf::i32s(v.types.iter().copied()).value())?;
        if !spm {
            writer.set("tokenizer.ggml.merges", ArrayBuf::strings(&v.merges).value())?;
        }
        for (name, id) in [
            ("bos", v.bos),
            ("eos", v.eos),
            ("eot", v.eot),
            ("eom", v.eom),
            ("unknown", v.unk),
            ("padding", self.padding),
        ] {
            if let Some(id) = id.filter(|&id| (id as usize) < v.tokens.len()) {
                writer.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id))?;
            }
        }
        writer.set("tokenizer.ggml.add_bos_token", Value::Bool(v.add_bos == Some(true)))?;
        if let Some(prefix) = v.add_space_prefix {
            writer.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix))?;
        }
        if let Some(template) = &v.chat_template {
            writer.set("tokenizer.chat_template", Value::Str(template.as_bytes()))?;
        }
        Ok(())
    }
}

/// The error of a text that the tokenizer in `file` does not encode: no one asked for that text, so it is not the
/// caller's fault.
fn of_file(error: Error, file: &Path) -> Error {
    match error {
        Error::Invalid { reason, .. } => {
            malformed(file, "tokenizer", "one that encodes texts of its own tokens", &reason)
        }
        other => other,
    }
}
