//! Byte-level BPE from a GGUF vocabulary ("gpt2"): bytes, then ranked merges inside each word.
//!
//! Everything here works on raw bytes: the printable alphabet in which files spell them (space as `Ġ`) is
//! undone once, in [`bytes_of`].

use ahash::AHashMap;

use super::merge::Merger;
use super::split::{PreSplit, Splitter};
use super::vocabulary::{Kind, Vocabulary};
use crate::TokenId;

/// Words up to this many bytes are remembered within one call; longer ones rarely come twice.
const CACHED_WORD_BYTES: usize = 32;
/// Words remembered within one call, a few megabytes.
const CACHED_WORDS: usize = 1 << 16;

/// A vocabulary and its merges.
#[derive(Debug)]
pub(super) struct Bpe {
    splitter: Splitter,
    ignore_merges: bool,
    n_vocab: u32,
    /// Text to symbol: a token's id, or a number from `n_vocab` on for a text that merges pass through
    /// without it being a token.
    symbols: AHashMap<Box<[u8]>, u32>,
    /// What the symbols from `n_vocab` on spell.
    ghosts: Vec<Box<[u8]>>,
    bytes: [u32; 256],
    /// Pair of symbols to rank and merged symbol.
    merges: AHashMap<(u32, u32), (u32, u32)>,
}

impl Bpe {
    /// `kinds` are the tokens' kinds by id; text never becomes a token whose kind is not a text's.
    pub(super) fn new(vocabulary: &Vocabulary, kinds: &[Kind], rule: PreSplit) -> Bpe {
        let n_vocab = vocabulary.tokens.len() as u32;
        let mut bpe = Bpe {
            splitter: Splitter::new(rule),
            ignore_merges: rule.ignores_merges(),
            n_vocab,
            symbols: AHashMap::with_capacity(vocabulary.tokens.len()),
            ghosts: Vec::new(),
            bytes: [0; 256],
            merges: AHashMap::with_capacity(vocabulary.merges.len()),
        };
        let mut bytes = Vec::new();
        for (id, (text, kind)) in vocabulary.tokens.iter().zip(kinds).enumerate() {
            bytes.clear();
            if !text.is_empty() && kind.is_text() && append_bytes(&mut bytes, text) {
                let text = bytes.as_slice().into();
                bpe.symbols.entry(text).or_insert(id as u32); // of equal texts, the lowest id
            }
        }
        for byte in 0..=255 {
            bpe.bytes[usize::from(byte)] = bpe.symbol(&[byte]);
        }
        for (rank, merge) in vocabulary.merges.iter().enumerate() {
            bpe.add_merge(rank as u32, merge, &mut bytes);
        }
        bpe
    }

    /// Takes `left right`, cut at the first space after the first byte; anything else is passed over.
    /// `bytes` is scratch space.
    fn add_merge(&mut self, rank: u32, merge: &[u8], bytes: &mut Vec<u8>) {
        let Some(space) = merge.iter().skip(1).position(|&b| b == b' ') else { return };
        bytes.clear();
        let left_is_sound = append_bytes(bytes, &merge[..space + 1]);
        let n_left = bytes.len();
        let right_is_sound = append_bytes(bytes, &merge[space + 2..]);
        if !left_is_sound || !right_is_sound || n_left == bytes.len() {
            return;
        }
        let pair = (self.symbol(&bytes[..n_left]), self.symbol(&bytes[n_left..]));
        let merged = self.symbol(bytes);
        self.merges.entry(pair).or_insert((rank, merged));
    }

    /// The symbol that spells `bytes`, made if need be.
    fn symbol(&mut self, bytes: &[u8]) -> u32 {
        if let Some(&symbol) = self.symbols.get(bytes) {
            return symbol;
        }
        let symbol = self.n_vocab + self.ghosts.len() as u32;
        self.ghosts.push(bytes.into());
        self.symbols.insert(bytes.into(), symbol);
        symbol
    }

    /// The ordinary token that spells `bytes`.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<TokenId> {
        self.symbols.get(bytes).copied().filter(|&symbol| symbol < self.n_vocab)
    }

    /// Appends the tokens of `text`, which is plain text throughout.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<TokenId>) {
        let mut merger = Merger::default();
        let mut cache: AHashMap<&[u8], (usize, usize)> = AHashMap::new();
        self.splitter.split(text, &mut |word| {
            let word = word.as_bytes();
            if self.ignore_merges
                && let Some(id) = self.find(word)
            {
                out.push(id);
                return;
            }
            if let Some(&(start, end)) = cache.get(word) {
                out.extend_from_within(start..end);
                return;
            }
            let start = out.len();
            self.encode_word(word, &mut merger, out);
            if word.len() <= CACHED_WORD_BYTES && cache.len() < CACHED_WORDS {
                cache.insert(word, (start, out.len()));
            }
        });
    }

    fn encode_word(&self, word: &[u8], merger: &mut Merger, out: &mut Vec<TokenId>) {
        merger.clear();
        for (i, &byte) in word.iter().enumerate() {
            merger.push(self.bytes[usize::from(byte)], i as u32 + 1);
        }
        merger.merge(|left, right| self.merges.get(&(left.id, right.id)).copied());
        for symbol in merger.symbols() {
            if symbol.id < self.n_vocab {
                out.push(symbol.id);
            } else {
                // Not a token: its bytes one by one, without those the vocabulary lacks.
                let ghost = &self.ghosts[(symbol.id - self.n_vocab) as usize];
                out.extend(ghost.iter().map(|&b| self.bytes[usize::from(b)]).filter(|&s| s < self.n_vocab));
            }
        }
    }
}

/// The printable character that stands for `byte` in byte-level vocabularies: itself where it is
/// printable Latin-1 (0x21-0x7E, 0xA1-0xAC, 0xAE-0xFF), else U+0100 and on, in the order of the bytes.
pub(super) fn char_of(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    char::from_u32(code).expect("below the surrogates")
}

/// The byte that `c` stands for.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes that `text` spells in that alphabet; `None` if it uses any other character.
pub(super) fn bytes_of(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    append_bytes(&mut bytes, text).then_some(bytes)
}

/// Appends those bytes; false if `text` uses any other character.
fn append_bytes(bytes: &mut Vec<u8>, text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_with_the_published_landmarks() {
        for byte in 0..=255_u8 {
            assert_eq!(bytes_of(char_of(byte).to_string().as_bytes()), Some(vec![byte]));
        }
        assert_eq!(
            [b' ', b'\n', 0x7f, 0xa0, 0xad, b'!'].map(char_of),
            ['Ġ', 'Ċ', 'ġ', '\u{142}', '\u{143}', '!']
        );
        assert_eq!(bytes_of("a b".as_bytes()), None, "a space is spelt Ġ");
        assert_eq!(bytes_of(&[0xff]), None, "not UTF-8");
    }
}
