//! SentencePiece from a GGUF vocabulary ("llama"): characters, then merges by score; bytes as a last resort.
//!
//! Spaces are spelt `▁` (U+2581). A merge is whatever concatenation is a token, the highest score first. The
//! `tokenizers` crate merges by rank of given pairs, which such a vocabulary does not have.

use ahash::{AHashMap, AHashSet};

use super::merge::Merger;
use super::vocabulary::{Kind, Vocabulary, byte_token};
use crate::TokenId;

/// How SentencePiece spells a space.
pub(super) const SPACE: char = '\u{2581}';

/// A vocabulary with scores.
#[derive(Debug)]
pub(super) struct Spm {
    /// Text to `(merge key, id)`; the lowest key is the highest score.
    tokens: AHashMap<Box<[u8]>, (u32, TokenId)>,
    longest: usize,
    /// Every pair of neighbouring characters inside some token. Between two characters that are not such a
    /// pair no merge can ever happen, so text may be cut there and each part encoded alone.
    joints: AHashSet<(char, char)>,
    bytes: [Option<TokenId>; 256],
    unk: Option<TokenId>,
    add_space_prefix: bool,
}

impl Spm {
    /// `kinds` are the tokens' kinds by id; text never becomes a token whose kind is not a text's.
    pub(super) fn new(vocabulary: &Vocabulary, kinds: &[Kind], add_space_prefix: bool) -> Spm {
        let mut spm = Spm {
            tokens: AHashMap::with_capacity(vocabulary.tokens.len()),
            longest: 0,
            joints: AHashSet::new(),
            bytes: [None; 256],
            unk: vocabulary.unk,
            add_space_prefix,
        };
        for (id, (text, kind)) in vocabulary.tokens.iter().zip(kinds).enumerate() {
            let id = id as TokenId;
            if *kind == Kind::Byte
                && let Some(byte) = byte_token(text)
            {
                spm.bytes[usize::from(byte)].get_or_insert(id);
            }
            // Text is UTF-8, so a token that is not can only be a byte.
            let Ok(token) = std::str::from_utf8(text) else { continue };
            if token.is_empty() || !kind.is_text() {
                continue;
            }
            let score = vocabulary.scores.get(id as usize).copied().unwrap_or(0.0);
            spm.tokens.entry(text.as_slice().into()).or_insert((merge_key(score), id));
            spm.longest = spm.longest.max(text.len());
            spm.joints.extend(token.chars().zip(token.chars().skip(1)));
        }
        spm
    }

    /// The ordinary token that spells `bytes`, a space being a space.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<TokenId> {
        let text = std::str::from_utf8(bytes).ok()?.replace(' ', SPACE.encode_utf8(&mut [0; 3]));
        self.tokens.get(text.as_bytes()).map(|&(_, id)| id)
    }

    /// Whether a space is put before text at the start and after a special token.
    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of `text`, which is plain text throughout. `at_start`: nothing or a special token
    /// stands before it.
    pub(super) fn encode(&self, text: &str, at_start: bool, out: &mut Vec<TokenId>) {
        if text.is_empty() {
            return;
        }
        let mut merger = Merger::default();
        let mut part = String::new();
        let mut last = None;
        let prefix = (at_start && self.add_space_prefix).then_some(' ');
        for c in prefix.into_iter().chain(text.chars()) {
            let c = if c == ' ' { SPACE } else { c };
            if let Some(last) = last
                && !self.joints.contains(&(last, c))
            {
                self.encode_part(&part, &mut merger, out);
                part.clear();
            }
            part.push(c);
            last = Some(c);
        }
        self.encode_part(&part, &mut merger, out);
    }

    fn encode_part(&self, part: &str, merger: &mut Merger, out: &mut Vec<TokenId>) {
        merger.clear();
        for (i, c) in part.char_indices() {
            merger.push(0, (i + c.len_utf8()) as u32);
        }
        let part = part.as_bytes();
        merger.merge(|left, right| {
            let text = &part[left.start as usize..right.end as usize];
            if text.len() > self.longest {
                return None;
            }
            self.tokens.get(text).copied()
        });
        for symbol in merger.symbols() {
            let text = &part[symbol.start as usize..symbol.end as usize];
            match self.tokens.get(text) {
                Some(&(_, id)) => out.push(id),
                // A character that is no token: its bytes, each of which may be missing as well.
                None => out.extend(text.iter().filter_map(|&b| self.bytes[usize::from(b)].or(self.unk))),
            }
        }
    }
}

/// Turns scores around: the higher the score, the lower the key. NaN comes last.
fn merge_key(score: f32) -> u32 {
    let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }; // -0.0 becomes 0.0
    let bits = score.to_bits();
    let ascending = if score.is_sign_negative() { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_scores_downwards() {
        let scores = [f32::INFINITY, 2.0, 1e-40, 0.0, -1e-40, -3.5, -1e9, f32::NEG_INFINITY];
        for pair in scores.windows(2) {
            assert!(merge_key(pair[0]) < merge_key(pair[1]), "{pair:?}");
        }
        assert_eq!(merge_key(0.0), merge_key(-0.0));
        assert_eq!(merge_key(f32::NAN), merge_key(f32::NEG_INFINITY));
    }
}
