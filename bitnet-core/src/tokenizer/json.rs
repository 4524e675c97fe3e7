//! `tokenizer.json`, read and run by the `tokenizers` crate.
//!
//! Byte-level BPE files whose cutting rule is one of [`PreSplit`] are cut by us and only merged by the
//! crate: its look-ahead engine gives up on very long runs of white space without saying so, and it keeps
//! some 250 bytes of bookkeeping for every byte of text. Other files run in the crate as they are.
//!
//! The crate believes what a file says. `claims` and `patterns` check what can be checked before, `guard` answers for
//! the rest.

use std::fs::{self, File, FileType};
use std::io::Read;
use std::path::{Path, PathBuf};

use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, Model, SplitDelimiterBehavior};

use super::Special;
use super::bpe::{bytes_of, char_of};
use super::claims::{self, Claims, MAX_PART_BYTES, malformed};
use super::guard::guarded;
use super::split::{LLAMA3_PUBLISHED, PreSplit, Splitter};
use super::spm::SPACE;
use super::vocabulary::{Kind, MAX_TOKENS, byte_token, is_end_text, is_marker};
use crate::TokenId;
use crate::error::{Error, Result};

/// The largest published `tokenizer.json` files have some 35 MB.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// From a pipe or the like, which does not say beforehand how much there is.
const MAX_PIPED_BYTES: u64 = 64 << 20;
/// The crate alone needs more than a second for a megabyte.
const MAX_CRATE_TEXT: usize = 4 << 20;
/// What a text may become in the crate's hands, which need up to 400 bytes for each of these, one to a piece. Texts of
/// Llama 2, three times as long where they are all spaces, may have 2.6 MiB.
const MAX_GROWN_TEXT: usize = 8 << 20;
/// Of a token. The longest in published files have some hundred.
const MAX_TOKEN_BYTES: usize = 4096;
/// Most kinds of steps act on it, and most scripts are in it.
const PROBE: &str = "Hello, world!  It's 1984.\n\tcafe\u{301} \u{fdfa}\u{6f22}\u{1f680}\u{130} </s>";
/// What is said of a file that makes the crate panic.
const CONTRADICTION: &str = "parts that contradict each other";
/// Below what makes the crate's look-ahead engine give up.
const MAX_SPACE_RUN: usize = 100_000;

/// The crate's tokenizer, and our cutting rule where it replaces the crate's.
#[derive(Debug)]
pub(super) struct Json {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    splitter: Option<Splitter>,
    byte_level: bool,
    /// How many times longer a text may become on its way through the crate.
    growth: usize,
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
    let claims = Claims::check(path, &read(path)?)?;
    let mut inner = parse(path, &claims)?;
    let unsupported =
        |item: &str, reason: String| Error::Unsupported { path: path.into(), item: item.into(), reason };
    let ModelWrapper::BPE(bpe) = inner.get_model() else {
        let reason = "only BPE is supported (byte-level, or with byte fallback)".to_owned();
        return Err(unsupported("model", reason));
    };
    if bpe.dropout.is_some_and(|p| p > 0.0) {
        return Err(unsupported("model.dropout", "random merges are for training".into()));
    }
    let tokens_growth = tokens_growth(bpe).map_err(|(item, n)| Error::Malformed {
        path: path.into(),
        item: format!("model.{item}"),
        expected: format!("at most {MAX_PART_BYTES} bytes of text"),
        found: format!("{n} bytes"),
    })?;
    let byte_level = ends_in_bytes(inner.get_pre_tokenizer());
    if !byte_level && !bpe.byte_fallback {
        let reason = "expected ByteLevel, or a model with byte_fallback".to_owned();
        return Err(unsupported("pre_tokenizer", reason));
    }
    let own = own_rule(&inner, bpe);
    if rule.is_some() && !(byte_level && inner.get_normalizer().is_none()) {
        let why = "is not plain byte-level BPE, its rule cannot be replaced";
        return Err(PreSplit::irreplaceable(path, why));
    }
    if let Some(rule) = rule {
        let mut model = bpe.clone();
        model.ignore_merges = rule.ignores_merges();
        inner.with_model(model);
    }

    let contradiction = || malformed(path, CONTRADICTION.into());
    let kinds = guarded(|| classify(&mut inner, path)).ok_or_else(contradiction)??;
    let printed: Vec<Box<[u8]>> = (0..kinds.len())
        .map(|id| {
            inner.id_to_token(id as u32).map_or(Box::default(), |text| printed(&text, kinds[id], byte_level))
        })
        .collect();
    let splitter = rule.or(own).map(Splitter::new);
    if splitter.is_none() {
        let is_control = |id: TokenId| kinds.get(id as usize) == Some(&Kind::Control);
        guarded(|| claims::check_added(&inner, is_control, path)).ok_or_else(contradiction)??;
    }
    // Our own rules cut a text before the crate sees it, and hand it words in its byte-level alphabet.
    let before = if splitter.is_some() { 2 } else { claims.growth };
    let growth = before.saturating_mul(tokens_growth);
    let mut engine = Json { path: path.into(), inner, splitter, byte_level, growth, bytes: Vec::new() };
    engine.bytes = (0..=255).map(|byte| engine.find(&[byte])).collect();
    let special = guarded(|| engine.special(&kinds, &printed)).ok_or_else(contradiction)?;
    engine.crate_ids(PROBE).map_err(|error| match error {
        Error::Invalid { reason, .. } => malformed(path, reason),
        other => other,
    })?;
    Ok(Loaded { engine, printed, kinds, special })
}

/// All of the file at `path`, which may be a pipe, as `<(...)` is in a shell, but nothing endless.
fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.into(), action: "read", source };
    let kind = fs::metadata(path).map_err(io)?.file_type();
    if !kind.is_file() && !is_pipe(kind) {
        return Err(Error::Malformed {
            path: path.into(),
            item: "file".into(),
            expected: "a regular file or a pipe".into(),
            found: if kind.is_dir() { "a directory" } else { "a device or a socket" }.into(),
        });
    }
    let most = if kind.is_file() { MAX_FILE_BYTES } else { MAX_PIPED_BYTES };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(malformed(path, format!("more than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn is_pipe(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind)
}

#[cfg(not(unix))]
fn is_pipe(_: FileType) -> bool {
    false
}

fn parse(path: &Path, claims: &Claims) -> Result<tokenizers::Tokenizer> {
    let mut inner = match guarded(|| tokenizers::Tokenizer::from_bytes(&claims.json)) {
        Some(Ok(inner)) => inner,
        Some(Err(error)) => return Err(malformed(path, error.to_string())),
        None => return Err(malformed(path, CONTRADICTION.into())),
    };
    inner.set_encode_special_tokens(true);
    Ok(inner)
}

/// How many times more than its bytes the tokens of a text may take: what the model puts around characters, and
/// the name of what it does not know. Or the field that is too long, and its length.
fn tokens_growth(bpe: &BPE) -> Result<usize, (&'static str, usize)> {
    let length = |item, text: &Option<String>| match text.as_ref().map_or(0, String::len) {
        n if n <= MAX_PART_BYTES => Ok(n),
        n => Err((item, n)),
    };
    let around = length("continuing_subword_prefix", &bpe.continuing_subword_prefix)?
        + length("end_of_word_suffix", &bpe.end_of_word_suffix)?;
    // Names up to 64 bytes are within the 250 bytes for each byte of a text.
    Ok((1 + around) * length("unk_token", &bpe.unk_token)?.div_ceil(64).max(1))
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
    if let Some(text) = vocabulary.keys().find(|text| text.len() > MAX_TOKEN_BYTES) {
        let expected = format!("tokens of at most {MAX_TOKEN_BYTES} bytes");
        let found = format!("one of {} bytes", text.len());
        return Err(Error::Malformed { path: path.into(), item: "model.vocab".into(), expected, found });
    }
    let mut kinds = vec![Kind::Normal; n_vocab];
    let mut taken = vec![false; n_vocab];
    for (text, &id) in &vocabulary {
        // The crate would print either text, which may be much the longer one.
        let of_model = inner.get_model().token_to_id(text) == Some(id);
        if of_model && std::mem::replace(&mut taken[id as usize], true) {
            let (expected, found) = ("one token to an id".into(), format!("two of id {id}"));
            return Err(Error::Malformed { path: path.into(), item: "model.vocab".into(), expected, found });
        }
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
            let found = self.crate_ids(text)?;
            if found.iter().any(is_control) {
                return Err(failed(
                    "this tokenizer.json would turn a part of the text into a control token".into(),
                ));
            }
            ids.extend(found);
            return Ok(());
        };
        let mut spelt = String::new();
        let mut outcome = Ok(());
        splitter.split(text, &mut |word| {
            if outcome.is_err() {
                return;
            }
            spelt.clear();
            outcome = self.fits("word", word).and_then(|()| {
                spelt.extend(word.bytes().map(char_of));
                let tokens = self.call(|| self.inner.get_model().tokenize(&spelt))?;
                if tokens.iter().any(|token| is_control(&token.id)) {
                    // A word that spells a control token stays bytes.
                    ids.extend(word.bytes().filter_map(|byte| self.bytes[usize::from(byte)]));
                } else {
                    ids.extend(tokens.iter().map(|token| token.id));
                }
                Ok(())
            });
        });
        outcome
    }

    /// What the crate alone makes of a text.
    fn crate_ids(&self, text: &str) -> Result<Vec<TokenId>> {
        self.fits("text", text)?;
        let encoding = self.call(|| self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Refuses what the crate would need too much memory for.
    fn fits(&self, what: &str, text: &str) -> Result<()> {
        let most = MAX_GROWN_TEXT / self.growth;
        if text.len() <= most {
            return Ok(());
        }
        let n = text.len();
        Err(failed(format!("a {what} of {n} bytes, with this tokenizer.json at most {most} are accepted")))
    }

    /// Calls the crate, which a file may make panic.
    fn call<T>(&self, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        match guarded(call) {
            Some(outcome) => outcome.map_err(|error| failed(error.to_string())),
            None => Err(malformed(&self.path, CONTRADICTION.into())),
        }
    }
}

fn failed(reason: String) -> Error {
    Error::Invalid { what: "prompt".into(), reason }
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
