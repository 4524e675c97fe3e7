//! Vocabularies: what a GGUF file says encodes text as the checkpoint's own files do.

use bitnet_core::Tokenizer;
use bitnet_core::gguf::Gguf;
use bitnet_core::hf::{Checkpoint as Converter, ConvertOptions};
use bitnet_core::tokenizer::Vocabulary;
use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, tiny};
use super::{convert, convert_with, refusal};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEXTS: [&str; 4] = ["Hello, world!  It's 12345.\n\n  x", "don't 'RE 99999 ...", " é漢 \u{1f680}", ""];

/// The character that byte-level vocabularies write for a byte.
fn spelt(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match printable(byte) {
        true => char::from(byte),
        false => char::from_u32(0x100 + (0..byte).filter(|&b| !printable(b)).count() as u32).unwrap(),
    }
}

fn special(id: usize, text: &str) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

/// Byte-level BPE: 256 bytes, eight merges, then `<|bos|>`, `<|end_of_text|>` and `<|eot_id|>`: 267 tokens.
fn byte_level(pre_tokenizer: &Value) -> Value {
    let mut vocab: Map<String, Value> = (0..=255u8).map(|b| (spelt(b).to_string(), json!(b))).collect();
    let merges = ["H e", "l l", "He ll", "Ġ 1", "1 2", "12 3", "Ċ Ċ", "' R"];
    for (i, merge) in merges.iter().enumerate() {
        vocab.insert(merge.replace(' ', ""), json!(256 + i));
    }
    let merges: Vec<Vec<&str>> = merges.iter().map(|merge| merge.split(' ').collect()).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "added_tokens": [special(264, "<|bos|>"), special(265, "<|end_of_text|>"), special(266, "<|eot_id|>")],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [264], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": merges}
    })
}

fn steps(expressions: &[&str]) -> Value {
    let split =
        |e: &&str| json!({"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Value> = expressions.iter().map(split).chain([bytes]).collect();
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// A model of 272 rows with this `tokenizer.json`.
fn with_tokenizer(tokenizer: &Value) -> Checkpoint {
    let mut c = tiny(272);
    c.files.insert("tokenizer.json".into(), tokenizer.to_string());
    c
}

fn vocabulary_of(gguf: &Gguf) -> Vocabulary {
    Vocabulary::from_gguf(gguf).unwrap().unwrap()
}

#[test]
fn a_byte_level_vocabulary_keeps_its_ids_its_rule_and_its_settings() {
    let mut c = with_tokenizer(&byte_level(&steps(&[LLAMA3])));
    c.files.insert("generation_config.json".into(), json!({"eos_token_id": [265, 266]}).to_string());
    let settings = json!({"bos_token": "<|bos|>", "eos_token": {"content": "<|end_of_text|>"},
        "pad_token": "<|eot_id|>", "chat_template": "{{ bos_token }}<|eot_id|>",
        "tokenizer_class": "PreTrainedTokenizerFast"});
    c.files.insert("tokenizer_config.json".into(), settings.to_string());
    let dir = c.write(1);
    let gguf = convert(dir.path()).unwrap();
    let vocabulary = vocabulary_of(&gguf);
    assert_eq!(vocabulary.pre.as_deref(), Some("llama-bpe"));
    assert_eq!(vocabulary.tokens.len(), 272);
    assert_eq!(vocabulary.tokens[271], b"[PAD271]");
    assert_eq!((vocabulary.types[40], vocabulary.types[264], vocabulary.types[271]), (1, 3, 5));
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.eot), (Some(264), Some(265), Some(266)));
    assert_eq!(vocabulary.add_bos, Some(true));
    assert_eq!(vocabulary.chat_template.as_deref(), Some("{{ bos_token }}<|eot_id|>"));
    assert_eq!(gguf.metadata().get("tokenizer.ggml.padding_token_id").unwrap().as_integer(), Some(266));
    let ours = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
    let theirs = Tokenizer::from_file(&dir.path().join("tokenizer.json"), None).unwrap();
    for text in TEXTS {
        assert_eq!(ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap(), "{text:?}");
    }
    assert_eq!(ours.end_tokens(), [265, 266]);
}

/// The name is the rule that does what the file does, whatever the file calls it.
#[test]
fn rules_are_found_by_what_they_do() {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let punctuation = json!({"type": "Punctuation", "behavior": "Contiguous"});
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let falcon3 = json!({"type": "Sequence", "pretokenizers": [punctuation, bytes(true), digits]});
    let default = [
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ];
    for (pre_tokenizer, expected) in [
        (steps(&[LLAMA3]), "llama-bpe"),
        (bytes(true), "gpt-2"),
        (steps(&default), "default"),
        (falcon3, "falcon3"),
    ] {
        let mut tokenizer = byte_level(&pre_tokenizer);
        tokenizer["model"]["ignore_merges"] = json!(expected == "llama-bpe");
        let dir = with_tokenizer(&tokenizer).write(1);
        let vocabulary = vocabulary_of(&convert(dir.path()).unwrap());
        assert_eq!(vocabulary.pre.as_deref(), Some(expected));
    }
}

#[test]
fn a_rule_without_a_name_is_refused_unless_another_is_chosen() {
    let dir = with_tokenizer(&byte_level(&steps(&[r"[a-m]+|[^a-m]+"]))).write(1);
    let found = refusal(dir.path());
    assert!(found.starts_with("tokenizer.json: tokenizer: it cuts text by none of the rules"), "{found}");
    assert!(found.contains("`--pre NAME`"), "{found}");
    let options = ConvertOptions { pre: Some("gpt-2".into()), ..ConvertOptions::default() };
    let vocabulary = vocabulary_of(&convert_with(dir.path(), &options).unwrap());
    assert_eq!(vocabulary.pre.as_deref(), Some("gpt-2"));
    // Loaded without a file, the model uses tokenizer.json itself, and no name is needed.
    Converter::open(dir.path(), &ConvertOptions::default()).unwrap().load(&mut |_, _| {}).unwrap();
    let options = ConvertOptions { pre: Some("nonsense".into()), ..ConvertOptions::default() };
    assert!(convert_with(dir.path(), &options).unwrap_err().is_misuse());
}

/// What is said of a `--pre` for the checkpoint in `dir`.
fn refusal_of_rule(dir: &std::path::Path) -> String {
    let options = ConvertOptions { pre: Some("llama3".into()), ..ConvertOptions::default() };
    let error = convert_with(dir, &options).unwrap_err();
    assert!(error.is_misuse(), "{error}");
    error.to_string()
}

/// No one asked for the texts on which rules are tried, so they are not the caller's fault.
#[test]
fn a_tokenizer_that_takes_short_texts_only_is_refused_by_name() {
    let mut tokenizer = byte_level(&steps(&[r"\p{L}+"]));
    tokenizer["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": "q"}, "content": "e".repeat(1000)});
    tokenizer["model"]["unk_token"] = json!("u".repeat(1024));
    let dir = with_tokenizer(&tokenizer).write(1);
    let error = convert(dir.path()).unwrap_err();
    assert!(error.is_bad_file(), "{error}");
    let said = "with this tokenizer.json at most 262 are accepted";
    assert!(error.to_string().ends_with(said), "{error}");
    let named = format!("{}: tokenizer: expected ", dir.path().join("tokenizer.json").display());
    assert!(error.to_string().starts_with(&named), "{error}");
}

#[test]
fn more_tokens_than_rows_are_refused() {
    let mut c = tiny(266);
    c.files.insert("tokenizer.json".into(), byte_level(&steps(&[LLAMA3])).to_string());
    let found = refusal(c.write(1).path());
    assert_eq!(
        found,
        "tokenizer.json: vocabulary: expected ids below vocab_size, 266, found 266, \"<|eot_id|>\""
    );
}

#[test]
fn without_a_tokenizer_there_is_no_vocabulary() {
    let dir = tiny(16).write(1);
    assert!(Vocabulary::from_gguf(&convert(dir.path()).unwrap()).unwrap().is_none());
    assert_eq!(refusal_of_rule(dir.path()), format!("--pre: {}: has no vocabulary", dir.path().display()));
}

/// The words of the SentencePiece tests, in the order of their ids from 259, with the merges that make them.
const WORDS: [&str; 9] = ["▁", "h", "e", "l", "o", "▁h", "he", "ll", "lo"];

#[test]
fn sentence_piece_like_files_become_sentence_piece() {
    let names = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let all = names.into_iter().chain(bytes).chain(WORDS.map(String::from));
    let vocab: Map<String, Value> = all.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ h", "h e", "l l", "l o"]}
    });
    let mut c = with_tokenizer(&tokenizer);
    let settings = json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "bos_token": "<s>"});
    c.files.insert("tokenizer_config.json".into(), settings.to_string());
    let dir = c.write(1);
    let gguf = convert(dir.path()).unwrap();
    assert_eq!(gguf.metadata().str("tokenizer.ggml.model").unwrap(), Some("llama"));
    let vocabulary = vocabulary_of(&gguf);
    assert_eq!((vocabulary.pre.as_deref(), vocabulary.add_bos), (None, Some(true)));
    assert_eq!(vocabulary.types[..4], [2, 3, 3, 6]);
    let ours = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
    let theirs = Tokenizer::from_file(&dir.path().join("tokenizer.json"), None).unwrap();
    for text in ["hello", " hello  hello", "lllo", "hé"] {
        assert_eq!(ours.encode(text, false).unwrap(), theirs.encode(text, false).unwrap(), "{text:?}");
    }
    assert_eq!(ours.encode("hello", true).unwrap(), [1, 264, 261, 266, 263]);
}

/// A `tokenizer.model`: tag, length, content, by hand.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, content.len() as u8][..], content].concat()
}

#[test]
fn a_sentence_piece_model_is_read_without_a_tokenizer_json() {
    let piece = |text: &str, score: f32, ty: u8| {
        let content =
            [&field(0x0a, text.as_bytes())[..], &[0x15], &score.to_le_bytes(), &[0x18, ty]].concat();
        field(0x0a, &content)
    };
    let mut model = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)].concat();
    for byte in 0..=255 {
        model.extend(piece(&format!("<0x{byte:02X}>"), 0.0, 6));
    }
    for (word, score) in WORDS.iter().zip([-10.0, -10.0, -10.0, -10.0, -10.0, 0.0, -1.0, -2.0, -3.0]) {
        model.extend(piece(word, score, 1));
    }
    model.extend(field(0x12, &[0x18, 2])); // BPE
    model.extend(field(0x1a, &[0x18, 1, 0x20, 0])); // a space in front, white space kept
    let mut c = tiny(270);
    c.files.insert("added_tokens.json".into(), json!({"<pad>": 268, "<s>": 1}).to_string());
    c.config["bos_token_id"] = json!(1);
    c.config["eos_token_id"] = json!(2);
    let dir = c.write(1);
    std::fs::write(dir.path().join("tokenizer.model"), &model).unwrap();
    let vocabulary = vocabulary_of(&convert(dir.path()).unwrap());
    assert_eq!(vocabulary.tokens[267..], [b"lo".to_vec(), b"<pad>".to_vec(), b"[PAD269]".to_vec()]);
    assert_eq!((&vocabulary.types[..4], &vocabulary.types[267..]), (&[2, 3, 3, 6][..], &[1, 4, 5][..]));
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.unk), (Some(1), Some(2), Some(0)));
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.encode("hello", true).unwrap(), [1, 264, 261, 266, 263]);

    let said = "is a SentencePiece vocabulary, which has no rule to replace";
    assert!(refusal_of_rule(dir.path()).ends_with(&format!("tokenizer.model: {said}")));

    let long = json!({"x".repeat(70_000): 269}).to_string();
    std::fs::write(dir.path().join("added_tokens.json"), long).unwrap();
    let found = refusal(dir.path());
    assert!(found.starts_with("added_tokens.json: key x"), "{found}");
    assert!(found.ends_with("x: expected a token of at most 65536 bytes, found 269"), "{found}");
    std::fs::remove_file(dir.path().join("added_tokens.json")).unwrap();

    std::fs::write(dir.path().join("tokenizer.model"), &model[..200]).unwrap();
    assert!(refusal(dir.path()).contains("tokenizer.model: file: expected a SentencePiece model"));
}

#[test]
fn special_ids_that_are_none_are_refused() {
    let said = |file: &str, key: &str, value: Value| {
        let mut c = with_tokenizer(&byte_level(&steps(&[LLAMA3])));
        if file == "config.json" {
            c.config[key] = value;
        } else {
            c.files.insert(file.into(), json!({key: value}).to_string());
        }
        refusal(c.write(1).path())
    };
    for (value, found) in
        [(json!(272), "272"), (json!(-1), "-1"), (json!("1"), "\"1\""), (json!([1, 272]), "an array")]
    {
        for file in ["config.json", "generation_config.json"] {
            for key in ["bos_token_id", "eos_token_id"] {
                assert_eq!(
                    said(file, key, value.clone()),
                    format!("{file}: key {key}: expected token ids below vocab_size, 272, found {found}")
                );
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_tokenizer_that_is_no_regular_file_is_refused() {
    let c = tiny(272);
    let place = |make: &dyn Fn(&std::path::Path)| {
        let dir = c.write(1);
        make(&dir.path().join("tokenizer.json"));
        refusal(dir.path())
    };
    let expected = "tokenizer.json: file: expected a regular file, found a directory, a pipe or a device";
    assert_eq!(place(&|path| std::fs::create_dir(path).unwrap()), expected);
    // Opened, this one would wait for its other end for ever.
    let fifo = |path: &std::path::Path| {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    assert_eq!(place(&fifo), expected);
}
