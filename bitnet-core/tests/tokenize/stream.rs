//! Printing tokens as they come.

use bitnet_core::Tokenizer;
use bitnet_core::tokenizer::{Detokenizer, StopMatcher};

use super::{Random, byte_level, sentence_piece};

#[test]
fn half_a_character_is_never_printed() {
    let tokenizer = Tokenizer::from_vocabulary(byte_level(&[], &[]), None).unwrap();
    let mut detokenizer = Detokenizer::new(&tokenizer);
    let printed: Vec<String> = "a漢😀".bytes().map(|b| detokenizer.push(b.into())).collect();
    assert_eq!(printed, ["a", "", "", "漢", "", "", "", "😀"]);
    assert_eq!(detokenizer.push(0xe6), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn any_bytes_in_any_pieces_print_like_a_lossy_string() {
    // Merges glue arbitrary bytes together, so that tokens begin and end inside characters.
    let mut random = Random(3);
    let bytes = [
        b'a', 0x80, 0xbf, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xf0, 0x9f, 0x98, 0x80, 0xf4, 0x90, 0xff,
    ];
    let mut vocabulary = byte_level(&[], &[]);
    for _ in 0..300 {
        let token: Vec<u8> = (0..1 + random.below(4)).map(|_| random.pick(&bytes)).collect();
        vocabulary.tokens.push(super::spelt(&token).into_bytes());
        vocabulary.types.push(1);
    }
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
    for _ in 0..2000 {
        let ids: Vec<u32> = (0..random.below(12)).map(|_| 256 + random.below(300) as u32).collect();
        let whole: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).to_vec()).collect();
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text.push_str(&detokenizer.finish());
        assert_eq!(text, String::from_utf8_lossy(&whole));
    }
}

#[test]
fn control_tokens_print_nothing_unless_asked() {
    let tokenizer = Tokenizer::from_vocabulary(byte_level(&[], &["<|eot_id|>"]), None).unwrap();
    let ids = [0xc3, 256, 0xa9];
    let mut silent = Detokenizer::new(&tokenizer);
    assert_eq!(ids.map(|id| silent.push(id)), ["", "", "é"], "a character goes on behind it");
    let mut shown = Detokenizer::new(&tokenizer).show_special(true);
    assert_eq!(ids.map(|id| shown.push(id)), ["", "\u{fffd}<|eot_id|>", "\u{fffd}"]);
}

#[test]
fn sentence_piece_drops_one_space_at_the_start_of_a_text() {
    let tokenizer = Tokenizer::from_vocabulary(sentence_piece(&[("▁a", -1.0), ("▁", -2.0)]), None).unwrap();
    let mut whole = Detokenizer::new(&tokenizer);
    assert_eq!([1, 259, 259].map(|id| whole.push(id)), ["", "a", " a"]);
    let mut spaces = Detokenizer::new(&tokenizer);
    assert_eq!([260, 260].map(|id| spaces.push(id)), ["", " "]);
    let mut more = Detokenizer::continuing(&tokenizer);
    assert_eq!([259, 259].map(|id| more.push(id)), [" a", " a"]);
    let mut bytes = Detokenizer::new(&tokenizer);
    assert_eq!([3 + 0xc3, 3 + 0xa9].map(|id| bytes.push(id)), ["", "é"]);
}

#[test]
fn a_stop_string_across_tokens_is_not_shown() {
    let tokenizer = Tokenizer::from_vocabulary(byte_level(&[("\n", "U"), ("s", "er")], &[]), None).unwrap();
    let ids = tokenizer.encode("Fine.\nUser: and you?", false).unwrap();
    let mut detokenizer = Detokenizer::new(&tokenizer);
    let mut stops = StopMatcher::new(["\nUser:", "###"]).unwrap();
    let mut shown = String::new();
    for id in ids {
        let step = stops.push(&detokenizer.push(id));
        shown.push_str(&step.text);
        if step.stopped {
            break;
        }
    }
    assert_eq!(shown, "Fine.");
    assert_eq!(stops.push("more").text, "", "nothing comes after a stop");
}
