//! What a `tokenizer.json` lists, without running it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::token_type::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::TokenId;
use crate::error::Result;
use crate::hf::config::HfConfig;
use crate::hf::object::{malformed, read_file};
use crate::tokenizer::{VocabModel, Vocabulary};

/// The largest published files have some 35 MB.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// Scores below that of every merge.
const NEVER_MERGED: f32 = -1e9;

/// What a `tokenizer.json` lists.
pub(super) struct Parts {
    vocab: BTreeMap<String, TokenId>,
    /// `left right`, best first.
    merges: Vec<String>,
    added: Vec<Added>,
    pub(super) unk_token: Option<String>,
    byte_fallback: bool,
    /// The rule that cuts text into words, as JSON.
    pub(super) pre_tokenizer: String,
}

struct Added {
    id: TokenId,
    text: String,
    special: bool,
}

impl Parts {
    pub(super) fn read(file: &Path) -> Result<Parts> {
        type Members = BTreeMap<String, Box<RawValue>>;
        let bytes = read_file(file, MAX_FILE_BYTES)?;
        let wrong = |item: &str, expected: &str, error: serde_json::Error| {
            malformed(file, item, expected, &error.to_string())
        };
        let top: Members = serde_json::from_slice(&bytes).map_err(|e| wrong("file", "a JSON object", e))?;
        let text = |members: &Members, key: &str| members.get(key).map_or("null", |raw| raw.get()).to_owned();
        let model: Members =
            serde_json::from_str(&text(&top, "model")).map_err(|e| wrong("model", "an object", e))?;
        let vocab = serde_json::from_str(&text(&model, "vocab"))
            .map_err(|e| wrong("model.vocab", "an object of texts and ids", e))?;
        // Merges are pairs, or in older files texts with a space.
        let merges = text(&model, "merges");
        let merges = match serde_json::from_str::<Vec<[String; 2]>>(&merges) {
            Ok(pairs) => pairs.into_iter().map(|[left, right]| format!("{left} {right}")).collect(),
            Err(_) => serde_json::from_str(&merges)
                .map_err(|e| wrong("model.merges", "an array of pairs or of strings", e))?,
        };
        let added: Option<Vec<BTreeMap<String, Json>>> = serde_json::from_str(&text(&top, "added_tokens"))
            .map_err(|e| wrong("added_tokens", "an array of objects", e))?;
        let added = added.unwrap_or_default().into_iter().map(|token| {
            let id = token.get("id").and_then(Json::as_u64).and_then(|id| TokenId::try_from(id).ok());
            let text = token.get("content").and_then(Json::as_str);
            let special = token.get("special").and_then(Json::as_bool) == Some(true);
            match (id, text) {
                (Some(id), Some(text)) => Ok(Added { id, text: text.to_owned(), special }),
                _ => Err(malformed(file, "added_tokens", "tokens with id and content", "one without")),
            }
        });
        Ok(Parts {
            vocab,
            merges,
            added: added.collect::<Result<_>>()?,
            unk_token: serde_json::from_str(&text(&model, "unk_token")).unwrap_or_default(),
            byte_fallback: text(&model, "byte_fallback") == "true",
            pre_tokenizer: text(&top, "pre_tokenizer"),
        })
    }

    pub(super) fn id_of(&self, text: &str) -> Option<TokenId> {
        let added = self.added.iter().find(|token| token.text == text).map(|token| token.id);
        added.or_else(|| self.vocab.get(text).copied())
    }

    /// Texts, types, scores and merges by id; rows of the embedding without a token are padding.
    pub(super) fn vocabulary(&self, file: &Path, config: &HfConfig) -> Result<Vocabulary> {
        let n = config.n_vocab;
        let byte_level = self.pre_tokenizer.contains("\"ByteLevel\"");
        let mut tokens: Vec<Option<&str>> = vec![None; n];
        let mut types = vec![UNUSED; n];
        let spelt = self.vocab.iter().map(|(text, &id)| {
            let is_byte = !byte_level && self.byte_fallback && is_byte_token(text);
            (id, text.as_str(), if is_byte { BYTE } else { NORMAL })
        });
        let added = self.added.iter().map(|token| {
            let unknown = !byte_level && self.unk_token.as_ref() == Some(&token.text);
            let control = if unknown { UNKNOWN } else { CONTROL };
            (token.id, token.text.as_str(), if token.special { control } else { USER_DEFINED })
        });
        for (id, text, ty) in spelt.chain(added) {
            let at = id as usize;
            if at >= n {
                let expected = format!("ids below vocab_size, {n}");
                return Err(malformed(file, "vocabulary", &expected, &format!("{id}, {text:?}")));
            }
            (tokens[at], types[at]) = (Some(text), ty);
        }
        let padding = |id: usize| format!("[PAD{id}]").into_bytes();
        let tokens = tokens.into_iter().enumerate();
        let tokens =
            tokens.map(|(id, text)| text.map_or_else(|| padding(id), |text| text.as_bytes().to_vec()));
        let (model, scores, merges) = if byte_level {
            (VocabModel::Bpe, Vec::new(), self.merges.iter().map(|m| m.as_bytes().to_vec()).collect())
        } else {
            (VocabModel::Spm, self.scores(n), Vec::new())
        };
        Ok(Vocabulary {
            source: file.to_owned(),
            model,
            tokens: tokens.collect(),
            types,
            scores,
            merges,
            ..Vocabulary::default()
        })
    }

    /// SentencePiece merges the pair whose union has the best score: that of the first merge that makes it.
    fn scores(&self, n: usize) -> Vec<f32> {
        let mut scores = vec![NEVER_MERGED; n];
        for (rank, merge) in self.merges.iter().enumerate().rev() {
            let made = merge.replacen(' ', "", 1);
            if let Some(score) = self.vocab.get(&made).and_then(|&id| scores.get_mut(id as usize)) {
                *score = -(rank as f32);
            }
        }
        scores
    }
}

/// Whether `text` is a byte token, `<0x0A>`.
fn is_byte_token(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}
