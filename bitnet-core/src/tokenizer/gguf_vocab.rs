//! The vocabulary inside a GGUF file.

use std::path::Path;

use super::Tokenizer;
use super::split::PreSplit;
use super::vocabulary::{MAX_TOKENS, VocabModel, Vocabulary};
use crate::TokenId;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Strings, Value};

/// More merges than any vocabulary has (Llama 3: 280 147).
const MAX_MERGES: usize = 1 << 23;
/// A longer chat template is no template; it is ignored.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

impl Tokenizer {
    /// The tokenizer of a model: that in `file`, a `tokenizer.json`, with the special tokens the model names; or,
    /// without one, the vocabulary inside the model; `None` if there is neither.
    ///
    /// `pre` replaces the rule for cutting text into words.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`], [`Vocabulary::from_gguf`] and [`Tokenizer::from_vocabulary`]; if `pre` is given and
    /// there is no vocabulary.
    pub fn for_model(gguf: &Gguf, file: Option<&Path>, pre: Option<&str>) -> Result<Option<Tokenizer>> {
        let vocabulary = Vocabulary::from_gguf(gguf)?;
        match (file, vocabulary) {
            (Some(file), Some(v)) => Tokenizer::from_file(file, pre)?.with_special_tokens_of(v).map(Some),
            (Some(file), None) => Ok(Some(Tokenizer::from_file(file, pre)?)),
            (None, Some(v)) => Ok(Some(Tokenizer::from_vocabulary(v, pre)?)),
            (None, None) if pre.is_some() => Err(PreSplit::irreplaceable(gguf.path(), "has no vocabulary")),
            (None, None) => Ok(None),
        }
    }
}

impl Vocabulary {
    /// Reads the `tokenizer.*` keys; `None` if the model carries no vocabulary.
    ///
    /// Special ids past the end of this vocabulary are ignored, as llama.cpp does: such files exist, some with
    /// -1 written as a `u32`. What could be no id anywhere is refused there, too.
    ///
    /// # Errors
    /// If a key has the wrong type, the counts disagree with each other or with the embedding, or the model is
    /// neither byte-level BPE nor SentencePiece.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Vocabulary>> {
        let metadata = gguf.metadata();
        let model = match metadata.str("tokenizer.ggml.model")? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some("gpt2") => VocabModel::Bpe,
            Some("llama") => VocabModel::Spm,
            Some(other) => {
                return Err(Error::Unsupported {
                    path: gguf.path().into(),
                    item: "metadata key tokenizer.ggml.model".into(),
                    reason: format!(
                        "{other:?} is unknown; gpt2 and llama are supported, or give a --tokenizer file"
                    ),
                });
            }
        };
        let id = |name: &str| -> Result<Option<TokenId>> {
            let id = metadata.u64(&format!("tokenizer.ggml.{name}_token_id"))?;
            Ok(id.and_then(|id| id.try_into().ok()))
        };
        id("padding")?; // nothing here pads, but a file that is wrong about it is wrong
        let template = match metadata.get("tokenizer.chat_template") {
            Some(Value::Str(bytes)) if bytes.len() <= MAX_TEMPLATE_BYTES => Some(bytes),
            _ => None,
        };
        let mut vocabulary = Vocabulary {
            source: gguf.path().into(),
            model,
            pre: metadata.str("tokenizer.ggml.pre")?.map(str::to_owned),
            tokens: limited(gguf, "tokenizer.ggml.tokens", MAX_TOKENS)?,
            scores: metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
            types: metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
            merges: limited(gguf, "tokenizer.ggml.merges", MAX_MERGES)?,
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            chat_template: template.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        };
        vocabulary.check()?;
        // Padded embeddings have more rows than tokens, never fewer.
        let n_rows =
            gguf.tensor("token_embd.weight").and_then(|embedding| embedding.info.shape.first().copied());
        if let Some(n_rows) = n_rows
            && vocabulary.tokens.len() > n_rows
        {
            let expected = format!("at most {n_rows}, the rows of token_embd.weight");
            return Err(metadata.wrong("tokenizer.ggml.tokens", &expected));
        }
        Ok(Some(vocabulary))
    }
}

/// The strings of `key`, at most `max`; none if the key is missing.
fn limited(gguf: &Gguf, key: &str, max: usize) -> Result<Vec<Vec<u8>>> {
    match gguf.metadata().strings(key)? {
        Some(strings) if strings.len() > max => {
            Err(gguf.metadata().wrong(key, &format!("at most {max} strings")))
        }
        strings => {
            Ok(strings.into_iter().flat_map(|strings: Strings<'_>| strings).map(<[u8]>::to_vec).collect())
        }
    }
}
