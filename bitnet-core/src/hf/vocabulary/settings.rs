//! What the files around `tokenizer.json` say: special tokens, chat template.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value as Json;

use super::MAX_TOKEN_BYTES;
use crate::TokenId;
use crate::error::Result;
use crate::hf::config::HfConfig;
use crate::hf::object::{Object, read_file};
use crate::tokenizer::Vocabulary;

const MAX_FILE_BYTES: u64 = 16 << 20;
/// A longer chat template is none, here as in [`Vocabulary::from_gguf`].
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What `tokenizer_config.json`, `generation_config.json` and the like say.
pub(super) struct Settings {
    tokenizer: Option<Object<'static>>,
    added: Option<Object<'static>>,
    bos: Option<TokenId>,
    /// Ends of texts and turns, the most general first.
    ends: Vec<TokenId>,
}

impl Settings {
    pub(super) fn read(dir: &Path, config: &HfConfig) -> Result<Settings> {
        let generation = Object::read_if_there(&dir.join("generation_config.json"), MAX_FILE_BYTES)?;
        let homes = [generation.as_ref(), Some(&config.json)];
        let ids = |key: &str| -> Result<Vec<TokenId>> {
            let mut ids = Vec::new();
            for home in homes.into_iter().flatten() {
                let Some(value) = home.get(key) else { continue };
                for id in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                    let id = id.as_u64().and_then(|id| TokenId::try_from(id).ok());
                    let id = id.filter(|&id| (id as usize) < config.n_vocab);
                    let expected = || format!("token ids below vocab_size, {}", config.n_vocab);
                    ids.push(id.ok_or_else(|| home.wrong(key, &expected()))?);
                }
            }
            Ok(ids)
        };
        let mut ends = ids("eos_token_id")?;
        let mut known = HashSet::new();
        ends.retain(|&id| known.insert(id));
        let tokenizer = Object::read_if_there(&dir.join("tokenizer_config.json"), MAX_FILE_BYTES)?;
        let added = Object::read_if_there(&dir.join("added_tokens.json"), MAX_FILE_BYTES)?;
        Ok(Settings { tokenizer, added, bos: ids("bos_token_id")?.first().copied(), ends })
    }

    /// Fills in the special ids of a vocabulary that has none yet; returns the padding token.
    pub(super) fn name_tokens(
        &self,
        vocabulary: &mut Vocabulary,
        unk: Option<String>,
        id_of: impl Fn(Option<String>) -> Option<TokenId>,
    ) -> Option<TokenId> {
        let mut ends = self.ends.clone();
        ends.extend(id_of(self.token("eos_token")).filter(|id| !self.ends.contains(id)));
        let mut ends = ends.into_iter();
        (vocabulary.eos, vocabulary.eot, vocabulary.eom) = (ends.next(), ends.next(), ends.next());
        vocabulary.bos = self.bos.or_else(|| id_of(self.token("bos_token")));
        vocabulary.unk = id_of(self.token("unk_token").or(unk));
        id_of(self.token("pad_token"))
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.tokenizer.as_ref().map_or(Ok(None), |settings| settings.bool(key))
    }

    /// Tokens that a `tokenizer.model` lacks: id, text, and whether they are control tokens.
    pub(super) fn added_tokens(&self) -> Result<Vec<(usize, String, bool)>> {
        let mut tokens = Vec::new();
        let mut add = |home: &Object<'_>, key: &str, id: usize, text: &str, special: bool| {
            if text.len() > MAX_TOKEN_BYTES {
                return Err(home.wrong(key, &format!("a token of at most {MAX_TOKEN_BYTES} bytes")));
            }
            tokens.push((id, text.to_owned(), special));
            Ok(())
        };
        if let Some(home) = &self.added {
            for (text, id) in home.keys_and_values() {
                if let Some(id) = id.as_u64().and_then(|id| usize::try_from(id).ok()) {
                    add(home, text, id, text, false)?;
                }
            }
        }
        let decoder = self.tokenizer.as_ref().map(|settings| settings.object("added_tokens_decoder"));
        if let Some(home) = decoder.transpose()?.flatten() {
            for (key, token) in home.keys_and_values() {
                let text = token.get("content").and_then(Json::as_str);
                let special = token.get("special").and_then(Json::as_bool) == Some(true);
                if let (Ok(id), Some(text)) = (key.parse(), text) {
                    add(&home, key, id, text, special)?;
                }
            }
        }
        Ok(tokens)
    }

    /// A special token's text, which may stand in an object.
    fn token(&self, key: &str) -> Option<String> {
        let value = self.tokenizer.as_ref()?.get(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    }

    /// Llama's tokenizer classes put their first token in front by this key, others by the post-processor alone.
    pub(super) fn adds_bos(&self) -> Result<bool> {
        let Some(settings) = &self.tokenizer else { return Ok(false) };
        let class = settings.text("tokenizer_class")?.unwrap_or_default();
        Ok(settings.bool("add_bos_token")? == Some(true)
            && (class.starts_with("Llama") || class.starts_with("Bitnet")))
    }

    /// The chat template: a file of its own, a text, or the default among several.
    pub(super) fn chat_template(&self, dir: &Path) -> Result<Option<String>> {
        let file = dir.join("chat_template.jinja");
        let template = if file.exists() {
            String::from_utf8(read_file(&file, MAX_FILE_BYTES)?).ok()
        } else {
            let value = self.tokenizer.as_ref().and_then(|settings| settings.get("chat_template"));
            let named = |list: &Vec<Json>| {
                let default = list.iter().find(|t| t.get("name").and_then(Json::as_str) == Some("default"));
                default.and_then(|t| t.get("template")?.as_str().map(str::to_owned))
            };
            value.and_then(|v| v.as_str().map(str::to_owned).or_else(|| v.as_array().and_then(named)))
        };
        Ok(template.filter(|text| text.len() <= MAX_TEMPLATE_BYTES))
    }
}
