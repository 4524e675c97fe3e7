//! A vocabulary that can tokenize any text, though not in a way that means anything.

use std::collections::HashSet;

use super::rng::Rng;

/// A byte-level BPE vocabulary: the 256 bytes, merges on top of them, special tokens at the end.
pub(super) struct Vocab {
    pub(super) tokens: Vec<String>,
    pub(super) merges: Vec<String>,
    pub(super) first_special: usize,
}

impl Vocab {
    pub(super) fn new(n: usize, rng: &mut Rng) -> Vocab {
        let n_special = if n >= 300 { 16 } else { 4 };
        let first_special = n - n_special;
        let mut tokens: Vec<String> = byte_alphabet().into_iter().map(String::from).collect();
        let mut seen: HashSet<String> = tokens.iter().cloned().collect();
        let mut merges = Vec::new();
        let mut pairs = ('a'..='z').flat_map(|a| ('a'..='z').map(move |b| (a.to_string(), b)));
        while tokens.len() < first_special {
            // All pairs of letters first, then letters after tokens that are there already.
            let (left, right) = pairs.next().unwrap_or_else(|| {
                let left = 256 + rng.next() as usize % (tokens.len() - 256);
                (tokens[left].clone(), char::from(b'a' + (rng.next() % 26) as u8))
            });
            let token = format!("{left}{right}");
            if seen.insert(token.clone()) {
                merges.push(format!("{left} {right}"));
                tokens.push(token);
            }
        }
        tokens.extend((0..n_special).map(|i| match i {
            0 => "<|begin_of_text|>".into(),
            1 => "<|end_of_text|>".into(),
            2 => "<|eot_id|>".into(),
            _ => format!("<|reserved_special_token_{i}|>"),
        }));
        Vocab { tokens, merges, first_special }
    }

    pub(super) fn types(&self) -> impl Iterator<Item = i32> {
        const NORMAL: i32 = 1;
        const CONTROL: i32 = 3;
        let first_special = self.first_special;
        (0..self.tokens.len()).map(move |i| if i < first_special { NORMAL } else { CONTROL })
    }
}

/// The characters that stand for the bytes 0 to 255 in a byte-level vocabulary: a byte that prints stands for
/// itself, the others take the characters from U+0100 on, in order.
fn byte_alphabet() -> [char; 256] {
    let mut free = 0x100..;
    std::array::from_fn(|byte| match byte as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => char::from_u32(code),
        _ => free.next().and_then(char::from_u32),
    })
    .map(|c| c.expect("all of these are characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_works() {
        for n in [260, 299, 300, 320, 2000] {
            let vocab = Vocab::new(n, &mut Rng::new(1, 0));
            assert_eq!(vocab.tokens.len(), n);
            assert_eq!(vocab.tokens.iter().collect::<HashSet<_>>().len(), n, "tokens are unique");
            assert_eq!(vocab.tokens[vocab.first_special], "<|begin_of_text|>");
            assert_eq!(vocab.tokens[vocab.first_special + 2], "<|eot_id|>");
            assert_eq!(vocab.merges.len(), vocab.first_special - 256);
            // A merge joins two tokens that come before the one it makes.
            for (i, merge) in vocab.merges.iter().enumerate() {
                let (left, right) = merge.split_once(' ').unwrap();
                let before = &vocab.tokens[..256 + i];
                assert!(before.iter().any(|t| t == left) && before.iter().any(|t| t == right), "{merge}");
                assert_eq!(vocab.tokens[256 + i], format!("{left}{right}"));
            }
        }
        let alphabet = byte_alphabet();
        assert_eq!((alphabet[b' ' as usize], alphabet[b'\n' as usize], alphabet[0xad]), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(alphabet[b'A' as usize], 'A');
    }
}
