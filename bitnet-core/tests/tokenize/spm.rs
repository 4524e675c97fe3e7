//! SentencePiece out of a model file's vocabulary.

use bitnet_core::Tokenizer;
use bitnet_core::tokenizer::{Detokenizer, Piece, Vocabulary};

use super::{Random, sentence_piece};

/// Ids 259 to 270.
const WORDS: [(&str, f32); 12] = [
    ("▁", -10.0),
    ("h", -11.0),
    ("e", -12.0),
    ("l", -13.0),
    ("o", -14.0),
    ("he", -1.0),
    ("ll", -2.0),
    ("hell", -4.0),
    ("lo", -3.0),
    ("hello", -5.0),
    ("▁hello", -6.0),
    ("▁h", -0.5),
];

fn tokenizer(add_space_prefix: bool) -> Tokenizer {
    let vocabulary = Vocabulary { add_space_prefix: Some(add_space_prefix), ..sentence_piece(&WORDS) };
    Tokenizer::from_vocabulary(vocabulary, None).unwrap()
}

#[test]
fn there_is_no_rule_to_replace() {
    let error = Tokenizer::from_vocabulary(sentence_piece(&WORDS), Some("llama3")).unwrap_err();
    assert!(error.is_misuse());
    let said = "is a SentencePiece vocabulary, which has no rule to replace";
    assert!(error.to_string().starts_with("--pre: ") && error.to_string().ends_with(said), "{error}");
}

#[test]
fn the_best_score_merges_first() {
    // h e l l o: he -1, then ll -2 (before lo -3), then hell -4, then hello -5.
    assert_eq!(tokenizer(false).encode("hello", false).unwrap(), [268]);
    // ▁ h e l l o: ▁h -0.5 comes first and blocks he; ll -2; ▁he, ell and llo are no tokens.
    assert_eq!(tokenizer(true).encode("hello", false).unwrap(), [270, 261, 265, 263]);
    // Two pairs with the score of ll: the left one. Then l has no partner.
    assert_eq!(tokenizer(false).encode("lll", false).unwrap(), [265, 262]);
    // l l l o: the left ll -2, then lo -3.
    assert_eq!(tokenizer(false).encode("lllo", false).unwrap(), [265, 267]);
}

#[test]
fn characters_without_a_token_become_bytes_or_unknown() {
    // é is C3 A9; byte b has id 3 + b.
    assert_eq!(tokenizer(false).encode("é", false).unwrap(), [3 + 0xc3, 3 + 0xa9]);
    assert_eq!(tokenizer(false).encode("\n", false).unwrap(), [3 + 0x0a]);
    let mut vocabulary = Vocabulary { add_space_prefix: Some(false), ..sentence_piece(&WORDS) };
    vocabulary.tokens[3 + 0xc3] = Vec::new();
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
    assert_eq!(tokenizer.encode("é", false).unwrap(), [0, 3 + 0xa9]);
}

#[test]
fn a_space_is_put_at_the_start_and_after_special_tokens_only() {
    let tokenizer = tokenizer(true);
    // ▁ ▁ h: ▁h takes the second, the first is left alone.
    assert_eq!(tokenizer.encode(" h", false).unwrap(), [259, 270]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [1], "no text, no space");
    assert_eq!(tokenizer.encode_with_specials("h</s>h").unwrap(), [270, 2, 270]);
    let pieces = [Piece::text("o"), Piece::text("h"), Piece::Special(2), Piece::text(""), Piece::text("h")];
    assert_eq!(tokenizer.encode_pieces(&pieces).unwrap(), [259, 263, 260, 2, 270]);
}

#[test]
fn defaults_are_sentence_pieces() {
    let tokenizer = Tokenizer::from_vocabulary(sentence_piece(&WORDS), None).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    assert_eq!(tokenizer.end_tokens(), [2]);
    assert_eq!(tokenizer.encode("h", false).unwrap(), [270], "with the space");
    assert_eq!(tokenizer.token_id(" h"), Some(270));
    assert_eq!(tokenizer.token_bytes(270), b" h");
    assert_eq!(tokenizer.token_bytes(3 + 0xc3), [0xc3]);
}

#[test]
fn text_that_spells_a_control_or_byte_token_stays_text() {
    // Merges that would lead to <s>, </s> and <0x0A> if those were text.
    let words = [
        ("▁", -9.0),
        ("<", -1.0),
        ("s", -1.0),
        (">", -1.0),
        ("<s", -1.0),
        ("s>", -1.0),
        ("</s", -1.0),
        ("<0x0A", -1.0),
    ];
    let tokenizer = Tokenizer::from_vocabulary(sentence_piece(&words), None).unwrap();
    for text in ["<s>", "</s>", "<unk>", "<0x0A>"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert!(!ids.iter().any(|&id| id < 3 || id == 3 + 0x0a), "{text}: {ids:?}");
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let back: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        assert_eq!(back, text);
    }
}

/// The definition, by rescanning: merge the best-scored adjacent pair, leftmost among equals, until none is
/// a token.
fn by_definition(words: &[(String, f32)], text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(|c| c.to_string()).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..symbols.len() {
            let joined = format!("{}{}", symbols[i - 1], symbols[i]);
            if let Some((_, score)) = words.iter().find(|(word, _)| *word == joined)
                && best.is_none_or(|(max, _)| *score > max)
            {
                best = Some((*score, i));
            }
        }
        let Some((_, i)) = best else { return symbols };
        let right = symbols.remove(i);
        symbols[i - 1].push_str(&right);
    }
}

#[test]
fn the_queue_and_the_cuts_agree_with_the_definition() {
    let mut random = Random(11);
    let letters = ["a", "b", "c", "▁", "é"];
    for _ in 0..60 {
        let mut words: Vec<(String, f32)> = letters.iter().map(|l| ((*l).to_owned(), -50.0)).collect();
        for _ in 0..25 {
            let word: String = (0..2 + random.below(4)).map(|_| random.pick(&letters)).collect();
            if !words.iter().any(|(known, _)| *known == word) {
                words.push((word, -(random.below(6) as f32)));
            }
        }
        let borrowed: Vec<(&str, f32)> = words.iter().map(|(word, score)| (word.as_str(), *score)).collect();
        let vocabulary = Vocabulary { add_space_prefix: Some(false), ..sentence_piece(&borrowed) };
        let tokenizer = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
        for _ in 0..20 {
            let text: String = (0..random.below(30)).map(|_| random.pick(&letters)).collect();
            let ids = tokenizer.encode(&text.replace('▁', " "), false).unwrap();
            let ours: Vec<String> = ids.iter().map(|&id| words[id as usize - 259].0.clone()).collect();
            assert_eq!(ours, by_definition(&words, &text), "{text} with {words:?}");
        }
    }
}
