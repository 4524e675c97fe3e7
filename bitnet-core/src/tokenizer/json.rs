//! `tokenizer.json`, read and run by the `tokenizers` crate.
//!
//! Byte-level BPE files whose cutting rule is one of [`PreSplit`] are cut by us and only merged by the
//! crate: its look-ahead engine gives up on very long runs of white space without saying so, and it keeps
//! some 250 bytes of bookkeeping for every byte of text. Other files run in the crate as they are.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, Model, SplitDelimiterBehavior};

use super::Special;
use super::bpe::{bytes_of, char_of};
use super::split::{LLAMA3_PUBLISHED, PreSplit, Splitter};
use super::spm::SPACE;
use super::vocabulary::{Kind, MAX_TOKENS, byte_token, is_end_text, is_marker};
use crate::TokenId;
use crate::error::{Error, Result};

/// The largest published `tokenizer.json` files have some 35 MB.
const MAX_FILE_BYTES: u64 = 512 << 20;
/// The crate alone needs some 250 bytes for each byte of text, and more than a second for a megabyte.
const MAX_CRATE_TEXT: usize = 4 << 20;
/// Below what makes the crate's look-ahead engine give up.
const MAX_SPACE_RUN: usize = 100_000;

/// The crate's tokenizer, and our cutting rule where it replaces the crate's.
#[derive(Debug)]
pub(super) struct Json {
    inner: tokenizers::Tokenizer,
    splitter: Option<Splitter>,
    byte_level: bool,
    bytes: Vec<Option<TokenId>>,
}

/// A file's engine, and its tables by id.
pub(super) struct Loaded {
    pub(super) engine: Json,
    pub(super) printed: Vec<Box<[u8]>>,
    pub(super) kinds: Vec<Kind>,
    pub(super) special: Special,
}

/// Reads the file at `path`; `rule` replaces its own cutting rule.
pub(super) fn load(path: &Path, rule: Option<PreSplit>) -> Result<Loaded> {
    let mut inner = parse(path)?;
    let unsupported =
        |item: &str, reason: String| Error::Unsupported { path: path.into(), item: item.into(), reason };
    let ModelWrapper::BPE(bpe) = inner.get_model() else {
        let reason = "only BPE is supported (byte-level, or with byte fallback)".to_owned();
        return Err(unsupported("model", reason));
    };
    if bpe.dropout.is_some_and(|p| p > 0.0) {
        return Err(unsupported("model.dropout", "random merges are for training".into()));
    }
    let byte_level = ends_in_bytes(inner.get_pre_tokenizer());
    if !byte_level && !bpe.byte_fallback {
        let reason = "expected ByteLevel, or a model with byte_fallback".to_owned();
        return Err(unsupported("pre_tokenizer", reason));
    }
    let own = own_rule(&inner, bpe);
    if rule.is_some() && !(byte_level && inner.get_normalizer().is_none()) {
        let reason = format!("{}: is not plain byte-level BPE, its rule cannot be replaced", path.display());
        return Err(Error::Invalid { what: "--pre".into(), reason });
    }
    if let Some(rule) = rule {
        let mut model = bpe.clone();
        model.ignore_merges = rule.ignores_merges();
        inner.with_model(model);
    }

    let kinds = classify(&mut inner, path)?;
    let printed: Vec<Box<[u8]>> = (0..kinds.len())
        .map(|id| {
            inner.id_to_token(id as u32).map_or(Box::default(), |text| printed(&text, kinds[id], byte_level))
        })
        .collect();
    let splitter = rule.or(own).map(Splitter::new);
    let mut engine = Json { inner, splitter, byte_level, bytes: Vec::new() };
    engine.bytes = (0..=255).map(|byte| engine.find(&[byte])).collect();
    let special = engine.special(&kinds, &printed);
    Ok(Loaded { engine, printed, kinds, special })
}

fn parse(path: &Path) -> Result<tokenizers::Tokenizer> {
    let io = |source| Error::Io { path: path.into(), action: "read", source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    let malformed = |found: String| Error::Malformed {
        path: path.into(),
        item: "tokenizer".into(),
        expected: "a tokenizer.json".into(),
        found,
    };
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(malformed(format!("more than {MAX_FILE_BYTES} bytes")));
    }
    // The crate trusts the file here and there; a contradiction in it must not take the process down.
    let parsed = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(&bytes)));
    let mut inner = match parsed {
        Ok(Ok(inner)) => inner,
        Ok(Err(error)) => return Err(malformed(error.to_string())),
        Err(_) => return Err(malformed("parts that contradict each other".into())),
    };
    // Files made for training cut and pad their input; a prompt is taken whole.
    inner.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
    inner.with_padding(None);
    inner.set_encode_special_tokens(true);
    Ok(inner)
}

/// Whether words reach the model in the byte-level alphabet, with no space added in front.
fn ends_in_bytes(pre_tokenizer: Option<&PreTokenizerWrapper>) -> bool {
    match pre_tokenizer {
        Some(PreTokenizerWrapper::ByteLevel(_)) => true,
        Some(PreTokenizerWrapper::Sequence(steps)) => {
            steps.as_ref().iter().any(|step| matches!(step, PreTokenizerWrapper::ByteLevel(_)))
        }
        _ => false,
    }
}

/// Which of our rules the file's own cutting is, if it is one of them and nothing else happens to text.
fn own_rule(inner: &tokenizers::Tokenizer, bpe: &BPE) -> Option<PreSplit> {
    let plain = inner.get_normalizer().is_none() && bpe.continuing_subword_prefix.is_none();
    if !plain || bpe.end_of_word_suffix.is_some() {
        return None;
    }
    match inner.get_pre_tokenizer()? {
        PreTokenizerWrapper::ByteLevel(bytes) if bytes.use_regex && !bytes.add_prefix_space => {
            Some(PreSplit::Gpt2)
        }
        PreTokenizerWrapper::Sequence(steps) => match steps.as_ref() {
            [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)]
                if split.pattern == SplitPattern::Regex(LLAMA3_PUBLISHED.into())
                    && split.behavior == SplitDelimiterBehavior::Isolated
                    && !split.invert
                    && !bytes.use_regex
                    && !bytes.add_prefix_space =>
            {
                Some(PreSplit::Llama3)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Kinds by id. Added tokens that look like markers are control tokens even if the file does not say so.
fn classify(inner: &mut tokenizers::Tokenizer, path: &Path) -> Result<Vec<Kind>> {
    let vocabulary = inner.get_vocab(true);
    let n_vocab = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    if n_vocab == 0 || n_vocab > MAX_TOKENS {
        let found = format!("ids up to {}", n_vocab.saturating_sub(1));
        let expected = format!("1 to {MAX_TOKENS} tokens");
        return Err(Error::Malformed { path: path.into(), item: "model.vocab".into(), expected, found });
    }
    let mut kinds = vec![Kind::Normal; n_vocab];
    for (text, &id) in &vocabulary {
        if byte_token(text.as_bytes()).is_some() {
            kinds[id as usize] = Kind::Byte;
        }
    }
    let mut control = Vec::new();
    for (id, token) in inner.get_added_tokens_decoder() {
        let text = token.content.as_bytes();
        let is_control = token.special || is_end_text(text) || is_marker(text);
        if let Some(kind) = kinds.get_mut(id as usize) {
            *kind = if is_control { Kind::Control } else { Kind::UserDefined };
        }
        if is_control && !token.special {
            control.push((id, AddedToken { special: true, ..token }));
        }
    }
    control.sort_unstable_by_key(|&(id, _)| id);
    let control: Vec<AddedToken> = control.into_iter().map(|(_, token)| token).collect();
    inner.add_special_tokens(&control);
    Ok(kinds)
}

/// What a token prints.
fn printed(text: &str, kind: Kind, byte_level: bool) -> Box<[u8]> {
    let plain = || text.as_bytes().to_vec();
    let bytes = match kind {
        Kind::Control | Kind::Unknown | Kind::UserDefined => plain(),
        _ if byte_level => bytes_of(text.as_bytes()).unwrap_or_else(plain),
        Kind::Byte => byte_token(text.as_bytes()).map_or_else(plain, |byte| vec![byte]),
        Kind::Normal | Kind::Unused => text.replace(SPACE, " ").into_bytes(),
    };
    bytes.into()
}

impl Json {
    /// Whether user-defined tokens must be cut out of text before [`encode`](Self::encode).
    pub(super) fn cuts_user_defined(&self) -> bool {
        self.splitter.is_some()
    }

    /// The ordinary token that spells `bytes`, a space being a space.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<TokenId> {
        let model = self.inner.get_model();
        if self.byte_level {
            return model.token_to_id(&bytes.iter().map(|&b| char_of(b)).collect::<String>());
        }
        let text = std::str::from_utf8(bytes).ok()?;
        model.token_to_id(&text.replace(' ', SPACE.encode_utf8(&mut [0; 3])))
    }

    /// What a `tokenizer.json` lets one guess: the post-processor shows the beginning-of-text token, texts show
    /// what ends.
    fn special(&self, kinds: &[Kind], printed: &[Box<[u8]>]) -> Special {
        let is_control = |id: &TokenId| kinds.get(*id as usize) == Some(&Kind::Control);
        let by_text =
            |texts: &[&str]| texts.iter().find_map(|text| self.inner.token_to_id(text)).filter(is_control);
        let added = self.inner.encode_fast("", true).ok().and_then(|empty| empty.get_ids().first().copied());
        let added = added.filter(is_control);
        let eos = by_text(&["<|end_of_text|>", "</s>", "<|endoftext|>"]);
        let texts = printed
            .iter()
            .enumerate()
            .filter(|(id, text)| is_control(&(*id as TokenId)) && is_end_text(text));
        let mut end_tokens: Vec<TokenId> = texts.map(|(id, _)| id as TokenId).chain(eos).collect();
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let first = self.inner.encode_fast("a", false).ok().and_then(|ids| ids.get_ids().first().copied());
        let first = first.and_then(|id| printed.get(id as usize));
        Special {
            bos: added.or_else(|| by_text(&["<|begin_of_text|>", "<s>"])),
            eos,
            adds_bos: added.is_some(),
            end_tokens,
            drops_first_space: first.is_some_and(|text| text.starts_with(b" ")),
            ..Special::default()
        }
    }

    /// Appends the ids of plain text.
    pub(super) fn encode(&self, text: &str, kinds: &[Kind], ids: &mut Vec<TokenId>) -> Result<()> {
        let is_control = |id: &TokenId| kinds.get(*id as usize) == Some(&Kind::Control);
        let failed = |reason: String| Error::Invalid { what: "prompt".into(), reason };
        let Some(splitter) = &self.splitter else {
            let limit = match text.len() {
                n if n > MAX_CRATE_TEXT => format!("texts over {MAX_CRATE_TEXT} bytes"),
                _ if longest_space_run(text) > MAX_SPACE_RUN => {
                    format!("more than {MAX_SPACE_RUN} white-space characters in a row")
                }
                _ => String::new(),
            };
            if !limit.is_empty() {
                return Err(failed(format!("{limit} are not supported with this tokenizer.json")));
            }
            let encoding = self.inner.encode_fast(text, false).map_err(|error| failed(error.to_string()))?;
            if encoding.get_ids().iter().any(is_control) {
                return Err(failed(
                    "this tokenizer.json would turn a part of the text into a control token".into(),
                ));
            }
            ids.extend_from_slice(encoding.get_ids());
            return Ok(());
        };
        let mut spelt = String::new();
        let mut outcome = Ok(());
        splitter.split(text, &mut |word| {
            if outcome.is_err() {
                return;
            }
            spelt.clear();
            spelt.extend(word.bytes().map(char_of));
            match self.inner.get_model().tokenize(&spelt) {
                // A word that spells a control token stays bytes.
                Ok(tokens) if tokens.iter().any(|token| is_control(&token.id)) => {
                    ids.extend(word.bytes().filter_map(|byte| self.bytes[usize::from(byte)]));
                }
                Ok(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                Err(error) => outcome = Err(failed(error.to_string())),
            }
        });
        outcome
    }
}

/// Length of the longest run of white space, in characters.
fn longest_space_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
