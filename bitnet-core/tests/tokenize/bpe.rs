//! Byte-level BPE out of a model file's vocabulary.

use bitnet_core::tokenizer::{Detokenizer, Piece, Vocabulary};
use bitnet_core::{TokenId, Tokenizer};

use super::{Random, byte_level, spelt};

/// Ids 256 to 261.
const MERGES: [(&str, &str); 6] =
    [("l", "l"), ("h", "e"), ("he", "ll"), ("hell", "o"), (" ", "w"), (",", " ")];
/// Ids 262 and on.
const CONTROL: [&str; 3] = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"];

fn tokenizer(pre: &str) -> Tokenizer {
    let vocabulary = Vocabulary { bos: Some(262), eos: Some(263), ..byte_level(&MERGES, &CONTROL) };
    Tokenizer::from_vocabulary(vocabulary, Some(pre)).unwrap()
}

/// What the tokens print, one string each.
fn texts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, false).unwrap();
    ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()).collect()
}

#[test]
fn merges_go_by_rank_inside_words() {
    let tokenizer = tokenizer("llama3");
    // "hello": ll (rank 0), he (1), he+ll (2), hell+o (3). ", " would be a token, but no word holds both.
    assert_eq!(tokenizer.encode("hello, world", false).unwrap(), [259, 44, 260, 111, 114, 108, 100]);
    assert_eq!(tokenizer.encode("hello", true).unwrap(), [262, 259]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [262]);
}

#[test]
fn the_cutting_rule_changes_the_tokens() {
    // Llama 3 keeps an opening mark with its word and three digits together; the default rule does neither.
    let merges = [(" ", "1"), ("(", "o"), ("(o", "k"), ("1", "2"), ("12", "3")];
    let with = |pre| Tokenizer::from_vocabulary(byte_level(&merges, &[]), Some(pre)).unwrap();
    assert_eq!(texts(&with("llama3"), "(ok 1234"), ["(ok", " ", "123", "4"]);
    assert_eq!(texts(&with("default"), "(ok 1234"), ["(", "o", "k", " ", "123", "4"]);
    assert_eq!(texts(&with("falcon3"), "(ok 1234"), ["(", "o", "k", " ", "1", "2", "3", "4"]);
    assert_eq!(texts(&with("gpt-2"), "(ok 1234"), ["(", "o", "k", " 1", "2", "3", "4"]);
}

#[test]
fn a_whole_word_that_is_a_token_skips_merging_under_llama3_only() {
    let mut vocabulary = byte_level(&[("a", "b")], &[]);
    vocabulary.tokens.push(b"abc".to_vec()); // id 257, out of reach of the merges
    vocabulary.types.push(1);
    let with = |pre| Tokenizer::from_vocabulary(vocabulary.clone(), Some(pre)).unwrap();
    assert_eq!(with("llama3").encode("abc", false).unwrap(), [257]);
    assert_eq!(with("default").encode("abc", false).unwrap(), [256, 99]);
}

#[test]
fn text_that_spells_a_control_token_stays_text() {
    let tokenizer = tokenizer("llama3");
    let typed = "hi<|eot_id|><|begin_of_text|>";
    let ids = tokenizer.encode(typed, false).unwrap();
    assert!(ids.iter().all(|&id| id < 262), "{ids:?}");
    assert_eq!(print(&tokenizer, &ids), typed);
    assert_eq!(tokenizer.encode_with_specials(typed).unwrap(), [104, 105, 264, 262]);
    let pieces = [Piece::Special(262), Piece::text("<|eot_id|>"), Piece::Special(264)];
    let ids = tokenizer.encode_pieces(&pieces).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (262, 264));
    assert_eq!(ids.iter().filter(|&&id| tokenizer.is_special(id)).count(), 2);
}

#[test]
fn no_merge_and_no_whole_word_leads_to_a_control_token() {
    // The control token is spelt like a word, and merges lead up to it.
    let mut vocabulary = byte_level(&[("e", "n")], &["end"]);
    vocabulary.merges.push(b"en d".to_vec());
    for pre in ["llama3", "default"] {
        let tokenizer = Tokenizer::from_vocabulary(vocabulary.clone(), Some(pre)).unwrap();
        assert_eq!(tokenizer.encode("end", false).unwrap(), [101, 110, 100], "{pre}: byte by byte");
        assert_eq!(tokenizer.token_id("end"), Some(257));
    }
}

#[test]
fn neighbouring_texts_are_one_text() {
    let tokenizer = tokenizer("llama3");
    let pieces = [Piece::text("hel"), Piece::text(""), Piece::text("lo"), Piece::text(", world")];
    assert_eq!(tokenizer.encode_pieces(&pieces).unwrap(), tokenizer.encode("hello, world", false).unwrap());
    assert!(tokenizer.encode_pieces(&[Piece::Special(265)]).unwrap_err().is_misuse());
}

#[test]
fn user_defined_tokens_are_cut_out_of_text_and_markers_are_not() {
    let mut vocabulary = byte_level(&[], &["<tool>", "<tool>x", "<|user|>"]);
    for types in &mut vocabulary.types[256..] {
        *types = 4;
    }
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, Some("llama3")).unwrap();
    assert_eq!(tokenizer.encode("a<tool>b<tool>x", false).unwrap(), [97, 256, 98, 257]);
    assert!(tokenizer.is_special(258) && !tokenizer.is_special(256));
    assert!(!tokenizer.encode("<|user|>", false).unwrap().contains(&258));
}

#[test]
fn pieces_outside_the_vocabulary_become_bytes_and_unknown_bytes_vanish() {
    // Merges may pass through a text that is no token: "bc" leads to "abc", and alone falls back to bytes.
    let mut vocabulary = byte_level(&[], &[]);
    vocabulary.tokens.push(b"abc".to_vec());
    vocabulary.types.push(1);
    vocabulary.merges = ["b c", "a bc"].map(|m| m.as_bytes().to_vec()).into();
    vocabulary.tokens[usize::from(b'z')] = Vec::new();
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, Some("default")).unwrap();
    assert_eq!(tokenizer.encode("abc", false).unwrap(), [256]);
    assert_eq!(tokenizer.encode("bc", false).unwrap(), [98, 99]);
    assert_eq!(tokenizer.encode("bzc", false).unwrap(), [98, 99]);
}

#[test]
fn doubled_and_empty_tokens_and_malformed_merges_do_no_harm() {
    let mut vocabulary = byte_level(&MERGES, &CONTROL);
    vocabulary.tokens.extend([Vec::new(), b"a".to_vec(), Vec::new(), b"hello".to_vec(), vec![0xff, 0xfe]]);
    vocabulary.types.resize(vocabulary.tokens.len(), 1);
    vocabulary.merges.extend(["", " ", "x", "x ", " x", "a \u{7}", "h e"].map(|m| m.as_bytes().to_vec()));
    vocabulary.merges.push(vec![0xff, b' ', 0xfe]);
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, Some("llama3")).unwrap();
    assert_eq!(tokenizer.encode("hello a", false).unwrap(), [259, 32, 97], "of equal texts, the lowest id");
    assert_eq!(tokenizer.token_bytes(265), b"");
    assert_eq!(tokenizer.token_bytes(269), [0xff, 0xfe]);
    assert_eq!(tokenizer.n_vocab(), 270);
}

#[test]
fn ids_outside_the_vocabulary_are_nothing() {
    let tokenizer = tokenizer("llama3");
    for id in [265, 266, TokenId::MAX] {
        assert_eq!(tokenizer.token_bytes(id), b"");
        assert!(!tokenizer.is_special(id));
        assert_eq!(Detokenizer::new(&tokenizer).push(id), "");
        assert!(tokenizer.check_id(id).is_err());
    }
}

fn print(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn any_text_comes_back() {
    let mut random = Random(7);
    let tokenizers = ["llama3", "default", "falcon3", "falcon", "gpt-2"].map(tokenizer);
    for _ in 0..400 {
        let text = random.text(60);
        for tokenizer in &tokenizers {
            let ids = tokenizer.encode(&text, false).unwrap();
            assert_eq!(print(tokenizer, &ids), text);
        }
    }
}

#[test]
fn tokens_are_found_by_their_text() {
    let tokenizer = tokenizer("llama3");
    assert_eq!(tokenizer.token_id(" w"), Some(260));
    assert_eq!(tokenizer.token_id("<|eot_id|>"), Some(264));
    assert_eq!(tokenizer.special_id("<|eot_id|>"), Some(264));
    assert_eq!(tokenizer.special_id(" w"), None);
    assert_eq!(tokenizer.token_id("nothing"), None);
}

#[test]
fn an_unknown_rule_is_refused_with_the_known_ones() {
    let error = Tokenizer::from_vocabulary(byte_level(&[], &[]), Some("llama4")).unwrap_err();
    assert!(error.is_misuse());
    assert!(
        error.to_string().starts_with("--pre llama4: expected one of default, llama-bpe, llama3, "),
        "{error}"
    );
    let vocabulary = Vocabulary { pre: Some("tekken".into()), ..byte_level(&[], &[]) };
    let error = Tokenizer::from_vocabulary(vocabulary.clone(), None).unwrap_err();
    assert!(error.is_bad_file());
    assert!(
        error.to_string().contains("test.gguf: metadata key tokenizer.ggml.pre: \"tekken\" is unknown"),
        "{error}"
    );
    Tokenizer::from_vocabulary(vocabulary, Some("default")).expect("the caller knows better");
}

/// Llama 3's vocabulary in shape: 128 256 tokens, the last 256 of them control tokens.
fn llama3_sized(pre: Option<&str>) -> Vocabulary {
    let mut vocabulary = byte_level(&[], &[]);
    let filler = (256..128_000).map(|i| format!("word{i}").into_bytes());
    vocabulary.tokens.extend(filler);
    vocabulary.types.resize(128_000, 1);
    for i in 0..256 {
        let name = match i {
            0 => "<|begin_of_text|>".into(),
            1 => "<|end_of_text|>".into(),
            6 => "<|start_header_id|>".into(),
            7 => "<|end_header_id|>".into(),
            9 => "<|eot_id|>".into(),
            i => format!("<|reserved_special_token_{i}|>"),
        };
        vocabulary.tokens.push(name.into_bytes());
        vocabulary.types.push(3);
    }
    Vocabulary { pre: pre.map(str::to_owned), bos: Some(128_000), eos: Some(128_001), ..vocabulary }
}

#[test]
fn the_2b_4t_vocabulary_without_a_rule_gets_llama3s() {
    let tokenizer = Tokenizer::from_vocabulary(llama3_sized(None), None).unwrap();
    let same = Tokenizer::from_vocabulary(llama3_sized(Some("llama-bpe")), None).unwrap();
    let default = Tokenizer::from_vocabulary(llama3_sized(None), Some("default")).unwrap();
    let text = "Don't (stop) 12345!\n\nword";
    assert_eq!(texts(&tokenizer, text), texts(&same, text));
    assert!(tokenizer.adds_bos() && default.adds_bos());
    assert_eq!(tokenizer.bos(), Some(128_000));
    assert_eq!(tokenizer.end_tokens(), [128_001, 128_009], "both, or a chat never ends");
    // The same vocabulary one token shorter is nobody's in particular.
    let mut other = llama3_sized(None);
    other.tokens.pop();
    other.types.pop();
    assert!(!Tokenizer::from_vocabulary(other, None).unwrap().adds_bos());
}

#[test]
fn defaults_for_missing_ids_apply_only_to_control_tokens() {
    // Without eos, BPE's is 11, Falcon's <|endoftext|>; here 11 is a vertical tab.
    let tokenizer = Tokenizer::from_vocabulary(byte_level(&[], &[]), None).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.end_tokens()), (None, &[][..]));
    let mut falcon = byte_level(&[], &[]);
    falcon.tokens[11] = b"<|endoftext|>".to_vec();
    let tokenizer = Tokenizer::from_vocabulary(falcon, None).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.end_tokens()), (Some(11), Some(11), &[11][..]));
}

#[test]
fn the_spelling_of_bytes_is_undone() {
    assert_eq!(spelt(b" \n"), "ĠĊ");
    let tokenizer = tokenizer("llama3");
    assert!((0..=255_u8).all(|b| tokenizer.token_bytes(b.into()) == [b]));
}
