//! Text to token ids and back.
//!
//! Start at [`Tokenizer`]. It reads either a vocabulary inside a model file ([`Vocabulary`]: byte-level BPE
//! in `bpe`, SentencePiece in `spm`) or a `tokenizer.json` (`json`, through the `tokenizers` crate). `named` finds
//! named tokens in text, `split` cuts it into words, `merge` is the merging loop. Around it: [`Detokenizer`]
//! prints a stream of ids, [`StopMatcher`] ends it, [`ChatFormat`] writes conversations.
//!
//! One rule holds everywhere: *text never becomes a control token*. Control ids come from [`Piece::Special`]
//! or from [`Tokenizer::encode_with_specials`], which is for trusted templates, not for what users type.

mod bpe;
mod chat;
mod claims;
mod gguf_vocab;
mod guard;
mod json;
mod merge;
mod named;
mod patterns;
mod split;
mod spm;
mod stop;
mod stream;
mod vocabulary;

use std::borrow::Cow;
use std::path::Path;

use ahash::AHashMap;

pub use chat::{ChatFormat, Message, Role};
pub use split::PreSplit;
pub use stop::{StopMatcher, Stopped};
pub use stream::Detokenizer;
pub use vocabulary::{VocabModel, Vocabulary};

use crate::TokenId;
use crate::error::{Error, Result};
use bpe::Bpe;
use json::Json;
use named::{MAX_NAMED_BYTES, Names};
use spm::Spm;
use vocabulary::Kind;

/// Positions inside a text are 32-bit numbers.
const MAX_TEXT_BYTES: usize = u32::MAX as usize / 4;
/// Why `--pre` is refused.
pub(crate) const SPM_HAS_NO_RULE: &str = "is a SentencePiece vocabulary, which has no rule to replace";

/// A part of a prompt: text, or a control token by id. Neighbouring texts are one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Plain text, whatever it spells.
    Text(Cow<'a, str>),
    /// One token.
    Special(TokenId),
}

impl<'a> Piece<'a> {
    /// Plain text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Piece<'a> {
        Piece::Text(text.into())
    }
}

/// A vocabulary ready to encode and decode. Immutable, shared between threads.
#[derive(Debug)]
pub struct Tokenizer {
    engine: Engine,
    printed: Vec<Box<[u8]>>,
    kinds: Vec<Kind>,
    /// Control and user-defined tokens by text.
    by_name: AHashMap<Box<[u8]>, TokenId>,
    /// Finds user-defined tokens in text.
    user_defined: Option<Names>,
    /// Finds control and user-defined tokens in templates.
    all_named: Option<Names>,
    special: Special,
}

/// Special tokens and settings of a vocabulary.
#[derive(Debug, Default)]
struct Special {
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    adds_bos: bool,
    adds_eos: bool,
    end_tokens: Vec<TokenId>,
    drops_first_space: bool,
    /// The rule the file names, whatever the caller chose instead.
    pre: Option<String>,
    chat_template: Option<String>,
}

#[derive(Debug)]
enum Engine {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
    Json(Box<Json>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `pre` replaces the file's own rule for cutting text into words.
    ///
    /// # Errors
    /// If the file cannot be read, is no `tokenizer.json`, holds an algorithm other than byte-level BPE and
    /// SentencePiece-like BPE, or if `pre` is unknown.
    pub fn from_file(path: &Path, pre: Option<&str>) -> Result<Tokenizer> {
        let rule = pre.map(PreSplit::chosen).transpose()?;
        let loaded = json::load(path, rule)?;
        let cuts_own = loaded.engine.cuts_user_defined();
        let engine = Engine::Json(Box::new(loaded.engine));
        Tokenizer::assemble(engine, loaded.printed, loaded.kinds, loaded.special, path, cuts_own)
    }

    /// Takes the vocabulary of a model file. `pre` replaces the file's own rule for cutting text into words.
    ///
    /// A file that names no rule gets `default`, as in bitnet.cpp, unless its vocabulary is Llama 3's: the
    /// published BitNet b1.58 2B-4T names none, and was trained with `llama3`.
    ///
    /// # Errors
    /// If the vocabulary contradicts itself, or names a rule unknown here, or if `pre` is unknown, or given for a
    /// SentencePiece vocabulary, which has no such rule.
    pub fn from_vocabulary(mut vocabulary: Vocabulary, pre: Option<&str>) -> Result<Tokenizer> {
        vocabulary.check()?;
        let chosen = pre.map(PreSplit::chosen).transpose()?;
        let kinds = vocabulary.kinds();
        vocabulary.fill_default_ids(&kinds);
        let own = vocabulary.rule(chosen.is_some())?;
        let is_spm = vocabulary.model == VocabModel::Spm;
        if is_spm && chosen.is_some() {
            return Err(PreSplit::irreplaceable(&vocabulary.source, SPM_HAS_NO_RULE));
        }
        let engine = if is_spm {
            let prefix = vocabulary.add_space_prefix.unwrap_or(true);
            Engine::Spm(Box::new(Spm::new(&vocabulary, &kinds, prefix)))
        } else {
            Engine::Bpe(Box::new(Bpe::new(&vocabulary, &kinds, chosen.unwrap_or(own))))
        };
        let special = Special {
            bos: vocabulary.bos,
            eos: vocabulary.eos,
            adds_bos: vocabulary.add_bos.unwrap_or(is_spm || own == PreSplit::Llama3),
            adds_eos: vocabulary.add_eos.unwrap_or(false),
            end_tokens: vocabulary.end_tokens(),
            drops_first_space: matches!(&engine, Engine::Spm(spm) if spm.adds_space_prefix()),
            pre: vocabulary.pre.take(),
            chat_template: vocabulary.chat_template.take(),
        };
        let printed = (0..kinds.len()).map(|id| vocabulary.printed(id, kinds[id]).into()).collect();
        Tokenizer::assemble(engine, printed, kinds, special, &vocabulary.source, true)
    }

    /// `cuts`: whether user-defined tokens are ours to cut out of text, or the engine does it.
    fn assemble(
        engine: Engine,
        printed: Vec<Box<[u8]>>,
        kinds: Vec<Kind>,
        special: Special,
        path: &Path,
        cuts: bool,
    ) -> Result<Tokenizer> {
        let mut by_name = AHashMap::new();
        let mut user_defined = Vec::new();
        let mut all_named = Vec::new();
        for (id, (text, kind)) in printed.iter().zip(&kinds).enumerate() {
            if text.is_empty() || !matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined) {
                continue;
            }
            by_name.entry(text.clone()).or_insert(id as TokenId);
            let Ok(text) = std::str::from_utf8(text) else { continue };
            all_named.push(text);
            if cuts && *kind == Kind::UserDefined {
                user_defined.push(text);
            }
        }
        let (user_defined, all_named) = (any_of(&user_defined, path)?, any_of(&all_named, path)?);
        Ok(Tokenizer { engine, printed, kinds, by_name, user_defined, all_named, special })
    }

    /// Replaces what a `tokenizer.json` does not say by what the model file says: special ids, whether a
    /// prompt begins with one, the chat template. Ids outside this tokenizer are ignored.
    ///
    /// # Errors
    /// If the vocabulary contradicts itself.
    pub fn with_special_tokens_of(mut self, mut vocabulary: Vocabulary) -> Result<Tokenizer> {
        vocabulary.check()?;
        let kinds = vocabulary.kinds();
        vocabulary.fill_default_ids(&kinds);
        let n_vocab = self.n_vocab();
        let known = |id: &TokenId| (*id as usize) < n_vocab;
        let special = &mut self.special;
        special.bos = vocabulary.bos.filter(known).or(special.bos);
        special.eos = vocabulary.eos.filter(known).or(special.eos);
        special.adds_bos = vocabulary.add_bos.unwrap_or(special.adds_bos);
        special.adds_eos = vocabulary.add_eos.unwrap_or(special.adds_eos);
        special.end_tokens.extend(vocabulary.end_tokens().into_iter().filter(known));
        special.end_tokens.sort_unstable();
        special.end_tokens.dedup();
        special.chat_template = vocabulary.chat_template.or(special.chat_template.take());
        special.pre = vocabulary.pre.or(special.pre.take());
        Ok(self)
    }

    /// The ids of `text`, after the beginning-of-text token if `add_bos` (see [`adds_bos`](Self::adds_bos)).
    /// Text that spells a control token stays text.
    ///
    /// # Errors
    /// If `text` is longer than 1 GiB, or the `tokenizer.json` in use cannot encode it.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        ids.extend(self.bos().filter(|_| add_bos));
        self.encode_text(text, true, &mut ids)?;
        Ok(ids)
    }

    /// The ids of a trusted template, in which control tokens are spelt out: `<|eot_id|>` is that token.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut pieces = Vec::new();
        self.cut_named(self.all_named.as_ref(), text, |piece| {
            pieces.push(piece);
            Ok(())
        })?;
        self.encode_pieces(&pieces)
    }

    /// The ids of a prompt in parts: text stays text, control tokens are given by id.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), or if an id is outside the vocabulary.
    pub fn encode_pieces(&self, pieces: &[Piece<'_>]) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        let mut at_start = true;
        let mut rest = pieces;
        while let [first, after @ ..] = rest {
            rest = after;
            match first {
                Piece::Special(id) => {
                    self.check_id(*id)?;
                    ids.push(*id);
                    at_start = true;
                }
                Piece::Text(text) => {
                    let mut text = Cow::Borrowed(&**text);
                    while let [Piece::Text(more), after @ ..] = rest {
                        text.to_mut().push_str(more);
                        rest = after;
                    }
                    self.encode_text(&text, at_start, &mut ids)?;
                    at_start &= text.is_empty();
                }
            }
        }
        Ok(ids)
    }

    /// Appends the ids of plain text. `at_start`: nothing or a special token stands before it.
    fn encode_text(&self, text: &str, mut at_start: bool, ids: &mut Vec<TokenId>) -> Result<()> {
        if text.len() > MAX_TEXT_BYTES {
            let reason = format!("{} bytes of text, at most {MAX_TEXT_BYTES} are accepted", text.len());
            return Err(Error::Invalid { what: "prompt".into(), reason });
        }
        self.cut_named(self.user_defined.as_ref(), text, |piece| {
            match &piece {
                Piece::Special(id) => ids.push(*id),
                Piece::Text(text) => match &self.engine {
                    Engine::Bpe(bpe) => bpe.encode(text, ids),
                    Engine::Spm(spm) => spm.encode(text, at_start, ids),
                    Engine::Json(json) => json.encode(text, &self.kinds, ids)?,
                },
            }
            at_start = matches!(piece, Piece::Special(_));
            Ok(())
        })
    }

    /// Cuts `text` where `named` finds a token, and hands the parts to `emit` in order.
    fn cut_named<'t>(
        &self,
        named: Option<&Names>,
        text: &'t str,
        mut emit: impl FnMut(Piece<'t>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        for found in named.into_iter().flat_map(|named| named.find_iter(text)) {
            let Some(&id) = self.by_name.get(text[found.clone()].as_bytes()) else { continue };
            if done < found.start {
                emit(Piece::text(&text[done..found.start]))?;
            }
            emit(Piece::Special(id))?;
            done = found.end;
        }
        if done < text.len() { emit(Piece::text(&text[done..])) } else { Ok(()) }
    }

    /// Checks that `id` is in the vocabulary.
    ///
    /// # Errors
    /// If it is not: ids are below [`n_vocab`](Self::n_vocab).
    pub fn check_id(&self, id: TokenId) -> Result<()> {
        let n_vocab = self.n_vocab();
        if (id as usize) < n_vocab { Ok(()) } else { Err(Error::Token { id, n_vocab }) }
    }

    /// Number of tokens; ids are below it.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.printed.len()
    }

    /// The beginning-of-text token.
    #[must_use]
    pub fn bos(&self) -> Option<TokenId> {
        self.special.bos
    }

    /// The end-of-text token. What ends a generation is [`end_tokens`](Self::end_tokens).
    #[must_use]
    pub fn eos(&self) -> Option<TokenId> {
        self.special.eos
    }

    /// Whether the model expects prompts to begin with [`bos`](Self::bos).
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.special.adds_bos && self.special.bos.is_some()
    }

    /// Whether the model expects complete texts to end with [`eos`](Self::eos).
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        self.special.adds_eos && self.special.eos.is_some()
    }

    /// Every token that ends a text or a turn, in rising order: the ids the file names and the tokens whose
    /// texts are known to end turns. Stopping on one of them alone makes a chat that never ends.
    #[must_use]
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.special.end_tokens
    }

    /// The bytes a token stands for, often only a part of a character; a control token's name. Empty for an
    /// id outside the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        self.printed.get(id as usize).map_or(&[], |bytes| bytes)
    }

    /// The token that is exactly `text`: a control token by its name, or ordinary text.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        let named = self.by_name.get(text.as_bytes()).copied();
        named.or_else(|| match &self.engine {
            Engine::Bpe(bpe) => bpe.find(text.as_bytes()),
            Engine::Spm(spm) => spm.find(text.as_bytes()),
            Engine::Json(json) => json.find(text.as_bytes()),
        })
    }

    /// The control token called `name`.
    #[must_use]
    pub fn special_id(&self, name: &str) -> Option<TokenId> {
        self.by_name.get(name.as_bytes()).copied().filter(|&id| self.is_special(id))
    }

    /// Whether `id` is a control token: never text, printed only on request.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }

    /// The file's chat template (Jinja).
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.special.chat_template.as_deref()
    }

    /// Whether a text's first printed space is the one that encoding put there (SentencePiece).
    fn drops_first_space(&self) -> bool {
        self.special.drops_first_space
    }

    /// The cutting rule named in the model file.
    fn pre(&self) -> Option<&str> {
        self.special.pre.as_deref()
    }
}

/// Finds the leftmost of `texts`, and of those that start there the longest.
fn any_of(texts: &[&str], path: &Path) -> Result<Option<Names>> {
    let n_bytes: usize = texts.iter().map(|text| text.len()).sum();
    if n_bytes > MAX_NAMED_BYTES {
        return Err(Error::Unsupported {
            path: path.into(),
            item: "vocabulary".into(),
            reason: format!(
                "{} named tokens of {n_bytes} bytes are too many to look for in text",
                texts.len()
            ),
        });
    }
    Ok((!texts.is_empty()).then(|| Names::new(texts)))
}
