//! Text to tokens and back, as the rest of the engine sees it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bpe;
mod chat;
mod gguf;
mod json;
mod long;
mod spm;
mod stream;

use bitnet_core::tokenizer::{VocabModel, Vocabulary};

/// The character that byte-level vocabularies write for a byte, by the rule as published: printable Latin-1
/// stands for itself, the others are numbered from U+0100 in rising order.
fn spelt(bytes: &[u8]) -> String {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others: Vec<u8> = (0..=255).filter(|&b| !printable(b)).collect();
    let spell = |&b: &u8| match others.iter().position(|&other| other == b) {
        Some(n) => char::from_u32(0x100 + n as u32).unwrap(),
        None => char::from(b),
    };
    bytes.iter().map(spell).collect()
}

/// Byte-level BPE: token `b` is byte `b`, then the given words (each `left right`), then control tokens.
fn byte_level(merges: &[(&str, &str)], control: &[&str]) -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|b| spelt(&[b]).into_bytes()).collect();
    let mut lines = Vec::new();
    for (left, right) in merges {
        let (left, right) = (spelt(left.as_bytes()), spelt(right.as_bytes()));
        tokens.push(format!("{left}{right}").into_bytes());
        lines.push(format!("{left} {right}").into_bytes());
    }
    let mut types = vec![1; tokens.len()];
    tokens.extend(control.iter().map(|name| name.as_bytes().to_vec()));
    types.resize(tokens.len(), 3);
    Vocabulary { source: "test.gguf".into(), tokens, types, merges: lines, ..Vocabulary::default() }
}

/// SentencePiece: 0 `<unk>`, 1 `<s>`, 2 `</s>`, 3..=258 the bytes, then the given words with their scores.
fn sentence_piece(words: &[(&str, f32)]) -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = ["<unk>", "<s>", "</s>"].map(|t| t.as_bytes().to_vec()).into();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>").into_bytes()));
    let mut types = vec![2, 3, 3];
    types.resize(tokens.len(), 6);
    let mut scores = vec![0.0; tokens.len()];
    tokens.extend(words.iter().map(|(word, _)| word.as_bytes().to_vec()));
    types.resize(tokens.len(), 1);
    scores.extend(words.iter().map(|(_, score)| score));
    let source = "test.gguf".into();
    Vocabulary { source, model: VocabModel::Spm, tokens, types, scores, ..Vocabulary::default() }
}

/// A small seeded generator: the same texts in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Up to `n` characters: words, numbers, marks, white space, control characters, any scalar value.
    fn text(&mut self, n: usize) -> String {
        let familiar: Vec<char> =
            "  eeettaaoinshrdlu\n\t.,!?'()<|>0123456789éß漢字👩\u{200d}👧e\u{301}\0".chars().collect();
        (0..self.below(n + 1))
            .map(|_| match self.below(8) {
                0 => char::from_u32(self.below(0x11_0000) as u32).unwrap_or('\u{fffd}'),
                _ => self.pick(&familiar),
            })
            .collect()
    }
}
