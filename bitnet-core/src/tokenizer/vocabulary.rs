//! A vocabulary as a model file states it, and what its statements amount to.

use std::path::PathBuf;

use super::bpe::bytes_of;
use super::split::PreSplit;
use super::spm::SPACE;
use crate::TokenId;
use crate::error::{Error, Result};

/// More tokens than any model has (the largest known vocabularies are about a quarter of a million), few
/// enough that every table over them stays small.
pub(super) const MAX_TOKENS: usize = 1 << 22;

/// Token texts that end a turn or a text, whatever the file's keys say.
const END_TEXTS: [&str; 8] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
];

/// How a vocabulary turns text into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VocabModel {
    /// Byte-level BPE: `tokenizer.ggml.model` is `gpt2`.
    #[default]
    Bpe,
    /// SentencePiece: `tokenizer.ggml.model` is `llama`.
    Spm,
}

/// A vocabulary as a model file states it. `None` and empty mean that the file does not say.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// The file, for messages.
    pub source: PathBuf,
    /// The algorithm.
    pub model: VocabModel,
    /// Name of the rule that cuts text into words, see [`PreSplit`](super::PreSplit).
    pub pre: Option<String>,
    /// Texts by id, as spelt in the file. Equal texts and empty ones occur in real files.
    pub tokens: Vec<Vec<u8>>,
    /// Merge priorities by id (SentencePiece).
    pub scores: Vec<f32>,
    /// GGUF token types by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `left right`, best first (BPE). Lines of another shape are passed over.
    pub merges: Vec<Vec<u8>>,
    /// Beginning of text.
    pub bos: Option<TokenId>,
    /// End of text.
    pub eos: Option<TokenId>,
    /// End of turn.
    pub eot: Option<TokenId>,
    /// End of message.
    pub eom: Option<TokenId>,
    /// What stands for text outside the vocabulary.
    pub unk: Option<TokenId>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space is put before the first word (SentencePiece).
    pub add_space_prefix: Option<bool>,
    /// The file's chat template (Jinja), read only to recognise its format.
    pub chat_template: Option<String>,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    /// Plain text that is cut out of a prompt before anything else happens to it.
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// Whether merging plain text may produce it. The others are produced by name only, so that no text can
    /// spell a control token.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Kind::Normal | Kind::Unused)
    }
}

impl Vocabulary {
    /// Checks what the fields promise about each other, and forgets special ids outside the vocabulary.
    pub(super) fn check(&mut self) -> Result<()> {
        let n_tokens = self.tokens.len();
        if n_tokens == 0 || n_tokens > MAX_TOKENS {
            return Err(self.malformed("tokens", format!("1 to {MAX_TOKENS} tokens"), n_tokens));
        }
        if self.types.len() != n_tokens && !self.types.is_empty() {
            return Err(self.malformed("token_type", format!("{n_tokens} values"), self.types.len()));
        }
        // Byte-level BPE has no use for scores, but a count that disagrees still means a broken file.
        let scores_optional = self.model == VocabModel::Bpe && self.scores.is_empty();
        if self.scores.len() != n_tokens && !scores_optional {
            return Err(self.malformed("scores", format!("{n_tokens} values"), self.scores.len()));
        }
        for id in [&mut self.bos, &mut self.eos, &mut self.eot, &mut self.eom, &mut self.unk] {
            *id = id.filter(|&id| (id as usize) < n_tokens);
        }
        Ok(())
    }

    fn malformed(&self, key: &str, expected: String, found: usize) -> Error {
        let item = format!("metadata key tokenizer.ggml.{key}");
        Error::Malformed { path: self.source.clone(), item, expected, found: found.to_string() }
    }

    /// Fills the ids that the file leaves out with the ones its algorithm implies: 11 for BPE (Falcon's
    /// `<|endoftext|>`), 1, 2 and 0 for SentencePiece. Only where such a token stands: elsewhere 11 is a comma.
    pub(super) fn fill_default_ids(&mut self, kinds: &[Kind]) {
        let default = |id: TokenId| (kinds.get(id as usize) == Some(&Kind::Control)).then_some(id);
        match self.model {
            VocabModel::Bpe => {
                self.bos = self.bos.or(default(11));
                self.eos = self.eos.or(default(11));
            }
            VocabModel::Spm => {
                self.bos = self.bos.or(default(1));
                self.eos = self.eos.or(default(2));
                let unk = (kinds.first() == Some(&Kind::Unknown)).then_some(0);
                self.unk = self.unk.or(unk);
            }
        }
    }

    /// Kinds by id. Markers that a file calls ordinary or user-defined text (`<|...|>` and the end texts)
    /// are control tokens all the same; a file without types is read by such looks alone.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let named = [self.bos, self.eos, self.eot, self.eom];
        let kind = |(id, text): (usize, &Vec<u8>)| match self.types.get(id) {
            _ if is_end_text(text) => Kind::Control,
            None if is_marker(text) || named.contains(&Some(id as TokenId)) => Kind::Control,
            None if self.model == VocabModel::Spm && byte_token(text).is_some() => Kind::Byte,
            None if self.unk == Some(id as TokenId) => Kind::Unknown,
            Some(2) => Kind::Unknown,
            Some(3) => Kind::Control,
            Some(4) if is_marker(text) => Kind::Control,
            Some(4) => Kind::UserDefined,
            Some(5) => Kind::Unused,
            Some(6) => Kind::Byte,
            _ => Kind::Normal,
        };
        self.tokens.iter().enumerate().map(kind).collect()
    }

    /// What a token prints: the file's spelling undone.
    pub(super) fn printed(&self, id: usize, kind: Kind) -> Vec<u8> {
        let text = &self.tokens[id];
        match (self.model, kind) {
            (_, Kind::Control | Kind::Unknown) => text.clone(),
            (VocabModel::Bpe, Kind::UserDefined) => text.clone(),
            (VocabModel::Bpe, _) => bytes_of(text).unwrap_or_else(|| text.clone()),
            (VocabModel::Spm, Kind::Byte) => byte_token(text).map_or_else(|| text.clone(), |byte| vec![byte]),
            (VocabModel::Spm, _) => match std::str::from_utf8(text) {
                Ok(text) => text.replace(SPACE, " ").into_bytes(),
                Err(_) => text.clone(),
            },
        }
    }

    /// Whether this is Llama 3's vocabulary, which BitNet b1.58 2B-4T shares: 128 256 tokens, beginning of
    /// text spelt `<|begin_of_text|>`.
    pub(super) fn is_llama3(&self) -> bool {
        let bos = self.bos.unwrap_or(128_000) as usize;
        self.tokens.len() == 128_256 && self.tokens.get(bos).is_some_and(|text| text == b"<|begin_of_text|>")
    }

    /// The cutting rule the file asks for. An unknown one is an error unless it is overridden anyway.
    pub(super) fn rule(&self, overridden: bool) -> Result<PreSplit> {
        let absent = if self.is_llama3() { PreSplit::Llama3 } else { PreSplit::Default };
        let Some(name) = self.pre.as_deref().filter(|_| self.model == VocabModel::Bpe) else {
            return Ok(absent);
        };
        match PreSplit::from_name(name) {
            Some(rule) => Ok(rule),
            None if overridden => Ok(absent),
            None => Err(Error::Unsupported {
                path: self.source.clone(),
                item: "metadata key tokenizer.ggml.pre".into(),
                reason: format!("{name:?} is unknown; choose one of {} with --pre", PreSplit::names()),
            }),
        }
    }

    /// Every token that ends a text or a turn, in rising order.
    pub(super) fn end_tokens(&self) -> Vec<TokenId> {
        let mut ends: Vec<TokenId> = [self.eos, self.eot, self.eom].into_iter().flatten().collect();
        let texts = self.tokens.iter().enumerate().filter(|(_, text)| is_end_text(text));
        ends.extend(texts.map(|(id, _)| id as TokenId));
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

/// Whether `text` ends a text or a turn in every vocabulary that has it.
pub(super) fn is_end_text(text: &[u8]) -> bool {
    END_TEXTS.iter().any(|end| end.as_bytes() == text)
}

/// Whether `text` looks like a chat marker, `<|...|>`.
pub(super) fn is_marker(text: &[u8]) -> bool {
    text.len() > 4 && text.starts_with(b"<|") && text.ends_with(b"|>")
}

/// The byte that a byte token, `<0x0A>`, stands for.
pub(super) fn byte_token(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_are_two_hexadecimal_digits() {
        assert_eq!(byte_token(b"<0x0A>"), Some(10));
        assert_eq!(byte_token(b"<0xff>"), Some(255));
        for text in [&b"<0x+A>"[..], b"<0xA>", b"<0x0A", b"0x0A", b"<0x00A>"] {
            assert_eq!(byte_token(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn special_ids_outside_the_vocabulary_are_forgotten() {
        let tokens = vec![b"a".to_vec(), b"b".to_vec()];
        let mut vocabulary = Vocabulary { tokens, bos: Some(2), eos: Some(1), ..Vocabulary::default() };
        vocabulary.check().unwrap();
        assert_eq!((vocabulary.bos, vocabulary.eos), (None, Some(1)));
    }

    #[test]
    fn counts_that_disagree_are_refused() {
        let vocabulary = Vocabulary { tokens: vec![b"a".to_vec()], ..Vocabulary::default() };
        let errors = [
            Vocabulary { tokens: Vec::new(), ..vocabulary.clone() }.check().unwrap_err(),
            Vocabulary { types: vec![1, 1], ..vocabulary.clone() }.check().unwrap_err(),
            Vocabulary { model: VocabModel::Spm, ..vocabulary }.check().unwrap_err(),
        ];
        let found: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(
            found[0].contains("tokenizer.ggml.tokens: expected 1 to 4194304 tokens, found 0"),
            "{found:?}"
        );
        assert!(found[1].contains("tokenizer.ggml.token_type: expected 1 values, found 2"), "{found:?}");
        assert!(found[2].contains("tokenizer.ggml.scores: expected 1 values, found 0"), "{found:?}");
    }
}
