//! Long prompts: linear in time, whatever they hold. The limits are generous; quadratic work on a megabyte
//! would miss them by orders of magnitude.

use std::time::{Duration, Instant};

use bitnet_core::Tokenizer;

use super::{byte_level, sentence_piece};

fn assert_quick(what: &str, tokenizer: &Tokenizer, text: &str) {
    let start = Instant::now();
    let ids = tokenizer.encode(text, false).unwrap();
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(30), "{what}: {elapsed:?}");
    let n_bytes: usize = ids.iter().map(|&id| tokenizer.token_bytes(id).len()).sum();
    // SentencePiece may have put one space in front.
    assert!(n_bytes == text.len() || n_bytes == text.len() + 1, "{what}: {n_bytes} of {} bytes", text.len());
}

/// A megabyte of one thing, and one of ordinary prose.
fn texts() -> [(&'static str, String); 7] {
    let prose =
        "The quick brown fox (aged 12345) can't jump over the lazy dog.\n  It's \"tired\": très fatigué. ";
    [
        ("letters", "a".repeat(1 << 20)),
        ("spaces", " ".repeat(1 << 20)),
        ("spaces before a word", format!("{}x", " ".repeat(1 << 20))),
        ("line breaks", "\r\n".repeat(1 << 19)),
        ("marks", "<|".repeat(1 << 19)),
        ("spaced line breaks", " \n".repeat(1 << 19)),
        ("prose", prose.repeat((1 << 20) / prose.len())),
    ]
}

#[test]
fn a_megabyte_of_anything_is_quick_for_byte_level_bpe() {
    let merges =
        [("a", "a"), ("aa", "aa"), (" ", " "), ("  ", "  "), ("    ", "    "), ("\n", "\n"), ("<", "|")];
    for pre in ["llama3", "default"] {
        let tokenizer = Tokenizer::from_vocabulary(byte_level(&merges, &["<|eot_id|>"]), Some(pre)).unwrap();
        for (what, text) in texts() {
            assert_quick(what, &tokenizer, &text);
        }
    }
}

#[test]
fn a_megabyte_of_anything_is_quick_for_sentence_piece() {
    let words =
        [("a", -9.0), ("aa", -1.0), ("aaaa", -2.0), ("▁", -9.0), ("▁▁", -1.0), ("▁▁▁▁", -3.0), ("<|", -1.0)];
    let tokenizer = Tokenizer::from_vocabulary(sentence_piece(&words), None).unwrap();
    for (what, text) in texts() {
        assert_quick(what, &tokenizer, &text);
    }
}

/// Every letter could be the first of the long token; the last one says that none is.
#[test]
fn a_megabyte_of_a_long_tokens_beginning_is_quick() {
    let mut vocabulary = byte_level(&[], &[]);
    let long = format!("{}b", "z".repeat(65_535));
    vocabulary.tokens.extend([long.into_bytes(), b"z".to_vec(), b" ".to_vec()]);
    vocabulary.types.extend([4, 4, 4]);
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, Some("llama3")).unwrap();
    for (what, text) in [("letters", "z".repeat(1 << 20)), ("spaced letters", "z ".repeat(1 << 19))] {
        assert_quick(what, &tokenizer, &text);
        assert_eq!(tokenizer.encode(&text, false).unwrap().len(), 1 << 20, "{what}");
    }
}
