//! `tokenizer.json` files, and the `tokenizers` crate as a second opinion on our own engine.

use std::path::{Path, PathBuf};

use bitnet_core::Tokenizer;
use bitnet_core::tokenizer::{Detokenizer, Piece, Vocabulary};
use serde_json::{Value, json};

use super::{Random, byte_level, spelt};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// Byte-level BPE with merges among random words over a few bytes, and two control tokens at the end.
fn random_vocabulary(random: &mut Random) -> Vocabulary {
    let mut words: Vec<String> = " etaoins.,'1209\né漢".chars().map(String::from).collect();
    let mut merges: Vec<(String, String)> = Vec::new();
    while merges.len() < 250 {
        let (left, right) =
            (words[random.below(words.len())].clone(), words[random.below(words.len())].clone());
        let word = format!("{left}{right}");
        if word.chars().count() <= 6 && !words.contains(&word) {
            words.push(word);
            merges.push((left, right));
        }
    }
    // é and 漢 are several bytes; they come together first.
    let mut vocabulary = byte_level(&[], &[]);
    let bytes: [(&[u8], &[u8]); 3] = [(b"\xc3", b"\xa9"), (b"\xe6", b"\xbc"), (b"\xe6\xbc", b"\xa2")];
    let merges = merges.iter().map(|(left, right)| (left.as_bytes(), right.as_bytes()));
    for (left, right) in bytes.into_iter().chain(merges) {
        let (left, right) = (spelt(left), spelt(right));
        vocabulary.tokens.push(format!("{left}{right}").into_bytes());
        vocabulary.merges.push(format!("{left} {right}").into_bytes());
    }
    vocabulary.types.resize(vocabulary.tokens.len(), 1);
    vocabulary.tokens.extend([b"<|begin_of_text|>".to_vec(), b"<|eot_id|>".to_vec()]);
    vocabulary.types.extend([3, 3]);
    vocabulary
}

fn byte_level_step(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split_steps(expressions: &[&str]) -> Value {
    let split =
        |e: &&str| json!({"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = expressions.iter().map(split).collect();
    steps.push(byte_level_step(false));
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The vocabulary as a `tokenizer.json`.
fn document(vocabulary: &Vocabulary, pre_tokenizer: Value, ignore_merges: bool) -> Value {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let n_words = vocabulary.tokens.len() - 2;
    let words = vocabulary.tokens[..n_words].iter().enumerate();
    let vocab: serde_json::Map<String, Value> = words.map(|(id, token)| (text(token), json!(id))).collect();
    let merges: Vec<String> = vocabulary.merges.iter().map(|merge| text(merge)).collect();
    let added: Vec<Value> = (n_words..n_words + 2)
        .map(|id| {
            json!({"id": id, "content": text(&vocabulary.tokens[id]), "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let bos = text(&vocabulary.tokens[n_words]);
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": added, "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {&bos: {"id": bos, "ids": [n_words], "tokens": [bos]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges}
    })
}

fn write(dir: &Path, document: &Value) -> PathBuf {
    let path = dir.join("tokenizer.json");
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

#[test]
fn our_engine_the_crate_and_their_combination_agree() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(21);
    let default = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];
    for _ in 0..4 {
        let vocabulary = random_vocabulary(&mut random);
        for (pre, pre_tokenizer, ignore_merges) in [
            ("llama3", split_steps(&[LLAMA3]), true),
            ("gpt-2", byte_level_step(true), false),
            ("default", split_steps(&default), false),
        ] {
            let path = write(dir.path(), &document(&vocabulary, pre_tokenizer, ignore_merges));
            let ours = Tokenizer::from_vocabulary(vocabulary.clone(), Some(pre)).unwrap();
            let combined = Tokenizer::from_file(&path, None).unwrap();
            let mut theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
            theirs.with_truncation(None).unwrap();
            for _ in 0..120 {
                let text = random.text(50);
                let ids = ours.encode(&text, false).unwrap();
                assert_eq!(
                    theirs.encode_fast(text.as_str(), false).unwrap().get_ids(),
                    ids,
                    "{pre}: {text:?}"
                );
                assert_eq!(combined.encode(&text, false).unwrap(), ids, "{pre}: {text:?}");
                assert!(ids.iter().all(|&id| combined.token_bytes(id) == ours.token_bytes(id)));
            }
        }
    }
}

#[test]
fn special_tokens_are_found_and_never_typed() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = random_vocabulary(&mut Random(1));
    let bos = vocabulary.tokens.len() as u32 - 2;
    let unknown_rule = split_steps(&[r"\p{L}+"]);
    for pre_tokenizer in [split_steps(&[LLAMA3]), byte_level_step(true), unknown_rule] {
        let mut file = document(&vocabulary, pre_tokenizer, true);
        // What looks like a marker is one, whatever the file says.
        file["added_tokens"][1]["special"] = json!(false);
        let tokenizer = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (Some(bos), true));
        assert_eq!(tokenizer.end_tokens(), [bos + 1]);
        assert_eq!(tokenizer.n_vocab(), vocabulary.tokens.len());
        let typed = "a<|eot_id|><|begin_of_text|>";
        let ids = tokenizer.encode(typed, false).unwrap();
        assert!(ids.len() > 3, "not cut to the file's training length");
        assert!(ids.iter().all(|&id| id < bos), "{ids:?}");
        assert_eq!(tokenizer.encode_with_specials(typed).unwrap(), [97, bos + 1, bos]);
        assert_eq!(tokenizer.encode_pieces(&[Piece::text("a"), Piece::Special(bos)]).unwrap(), [97, bos]);
        assert_eq!(tokenizer.token_id("<|eot_id|>"), Some(bos + 1));
        assert_eq!(tokenizer.token_id("\n"), Some(10));
    }
}

#[test]
fn a_rule_may_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = random_vocabulary(&mut Random(2));
    let path = write(dir.path(), &document(&vocabulary, split_steps(&[LLAMA3]), true));
    let replaced = Tokenizer::from_file(&path, Some("default")).unwrap();
    let ours = Tokenizer::from_vocabulary(vocabulary, Some("default")).unwrap();
    let mut random = Random(3);
    for _ in 0..200 {
        let text = random.text(40);
        assert_eq!(replaced.encode(&text, false).unwrap(), ours.encode(&text, false).unwrap(), "{text:?}");
    }
    assert!(Tokenizer::from_file(&path, Some("nonsense")).unwrap_err().is_misuse());
}

#[test]
fn long_texts_are_refused_only_where_the_crate_would_fail_on_them() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = random_vocabulary(&mut Random(6));
    let spaces = format!("{}a", " ".repeat(1_100_000));
    let known =
        Tokenizer::from_file(&write(dir.path(), &document(&vocabulary, split_steps(&[LLAMA3]), true)), None);
    let ours = Tokenizer::from_vocabulary(vocabulary.clone(), Some("llama3")).unwrap();
    assert_eq!(known.unwrap().encode(&spaces, false).unwrap(), ours.encode(&spaces, false).unwrap());
    let file = document(&vocabulary, split_steps(&[r"\p{L}+"]), false);
    let other = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
    let error = other.encode(&spaces, false).unwrap_err().to_string();
    assert_eq!(
        error,
        "prompt: more than 100000 white-space characters in a row are not supported with this tokenizer.json"
    );
    let error = other.encode(&"a".repeat(5 << 20), false).unwrap_err().to_string();
    assert_eq!(error, "prompt: texts over 4194304 bytes are not supported with this tokenizer.json");
}

#[test]
fn the_model_file_may_name_the_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = random_vocabulary(&mut Random(4));
    let end = vocabulary.tokens.len() as u32 - 1;
    let mut file = document(&vocabulary, split_steps(&[LLAMA3]), true);
    file["post_processor"] = Value::Null;
    let tokenizer = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
    assert!(!tokenizer.adds_bos());
    let broken = Vocabulary { types: vec![1], ..vocabulary.clone() };
    let error = tokenizer.with_special_tokens_of(broken).unwrap_err();
    assert!(error.is_bad_file(), "{error}");
    let tokenizer = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
    let stated = Vocabulary { bos: Some(5), eos: Some(6), add_bos: Some(true), ..vocabulary };
    let tokenizer = tokenizer.with_special_tokens_of(stated).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (Some(5), true));
    assert_eq!(tokenizer.end_tokens(), [6, end]);
}

#[test]
fn sentence_piece_like_files_run_in_the_crate() {
    let dir = tempfile::tempdir().unwrap();
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), json!(vocab.len()));
    }
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    for token in ["▁", "h", "i", "▁h", "▁hi"] {
        vocab.insert(token.into(), json!(vocab.len()));
    }
    let special = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ h", "▁h i"]}
    });
    let tokenizer = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
    let ids = tokenizer.encode("hi é</s>", false).unwrap();
    let byte = |b: u8| 3 + u32::from(b);
    let typed = b"</s>".map(byte);
    assert_eq!(ids, [&[263, 259, byte(0xc3), byte(0xa9)], &typed[..]].concat());
    let mut detokenizer = Detokenizer::new(&tokenizer);
    assert_eq!(ids.iter().map(|&id| detokenizer.push(id)).collect::<String>(), "hi é</s>");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.end_tokens()), (Some(1), Some(2), &[2][..]));
    let error = Tokenizer::from_file(&dir.path().join("tokenizer.json"), Some("llama3")).unwrap_err();
    assert!(error.is_misuse() && error.to_string().contains("its rule cannot be replaced"), "{error}");
}

/// What is said of a file like `good` but for a change, after its name.
fn refusal(dir: &Path, good: &Value, change: &dyn Fn(&mut Value)) -> String {
    let mut file = good.clone();
    change(&mut file);
    let error = Tokenizer::from_file(&write(dir, &file), None).unwrap_err();
    assert!(error.is_bad_file(), "{error}");
    let said = error.to_string();
    said.split_once("tokenizer.json: ").unwrap().1.to_owned()
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&random_vocabulary(&mut Random(5)), split_steps(&[LLAMA3]), true);
    let refusal = |change: &dyn Fn(&mut Value)| refusal(dir.path(), &good, change);
    assert!(refusal(&|file| *file = json!([1, 2])).contains("expected a tokenizer.json"));
    let long = "x".repeat(5_000_000);
    let said = refusal(&|file| file["model"]["merges"] = json!([format!("{long} e")]));
    assert!(said.len() < 1000 && said.contains("out of vocabulary"), "{} bytes", said.len());
    assert!(refusal(&|file| file["model"]["merges"] = json!(["no such"])).contains("out of vocabulary"));
    assert!(refusal(&|file| file["model"]["dropout"] = json!(0.5)).contains("random merges"));
    assert!(refusal(&|file| file["pre_tokenizer"] = Value::Null).contains("expected ByteLevel"));
    assert!(
        refusal(&|file| file["model"]["vocab"]["far"] = json!(4_000_000_000_u32)).contains("1 to 4194304")
    );
    let words = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
    assert!(refusal(&|file| file["model"] = words.clone()).contains("only BPE is supported"));
    std::fs::write(dir.path().join("half.json"), "{\"version\": \"1.0\",\n \"mod").unwrap();
    let half = Tokenizer::from_file(&dir.path().join("half.json"), None).unwrap_err();
    let found = "half.json: tokenizer: expected a tokenizer.json, found EOF while parsing a string at line 2 column 5";
    assert!(half.is_bad_file() && half.to_string().ends_with(found), "{half}");
    let missing = Tokenizer::from_file(&dir.path().join("missing.json"), None).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read ") && missing.contains("missing.json"), "{missing}");
}

#[test]
fn what_makes_the_crate_panic_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&random_vocabulary(&mut Random(7)), split_steps(&[r"\p{L}+"]), true);
    let refusal = |change: &dyn Fn(&mut Value)| refusal(dir.path(), &good, change);
    let contradiction = "tokenizer: expected a tokenizer.json, found parts that contradict each other";
    assert_eq!(refusal(&|file| file["post_processor"]["special_tokens"] = json!({})), contradiction);
    assert_eq!(refusal(&|file| file["model"]["continuing_subword_prefix"] = json!("####")), contradiction);
    let normalizer = |step: Value| refusal(&|file| file["normalizer"] = step.clone());
    assert_eq!(
        normalizer(json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        "normalizer.pattern: expected a text to replace, found none: every place in a text has that"
    );
    // A trie of one unit that leads out of it.
    let map = |text| json!({"type": "Precompiled", "precompiled_charsmap": text});
    assert_eq!(normalizer(map("BAAAAP////8=")), contradiction);
    let length = json!({"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}, byte_level_step(false)]});
    assert_eq!(
        refusal(&|file| file["pre_tokenizer"] = length.clone()),
        "pre_tokenizer.length: expected 1 or more, found 0"
    );
}

/// Of a map that a text does not meet in the probe, but in a prompt.
#[test]
fn a_panic_on_some_text_is_the_files_fault() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = document(&random_vocabulary(&mut Random(8)), split_steps(&[r"\p{L}+"]), true);
    // Of the trie's 256 units only the last lets a byte through, 0xf3, and to a unit that is not there.
    let mut units = [0u32; 256];
    units[0xf3] = 0xf3 | 0x3ff << 10;
    let trie = units.iter().flat_map(|unit| unit.to_le_bytes());
    let map: Vec<u8> = 1024u32.to_le_bytes().into_iter().chain(trie).chain(*b"x\0").collect();
    file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": base64(&map)});
    let tokenizer = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
    assert!(!tokenizer.encode("a", false).unwrap().is_empty());
    let error = tokenizer.encode("\u{e0100}", false).unwrap_err();
    assert!(
        error.is_bad_file() && error.to_string().ends_with("parts that contradict each other"),
        "{error}"
    );
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = bytes.chunks(3).flat_map(|three| {
        let word = three.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        let digit = move |i: usize| char::from(DIGITS[(word >> (18 - 6 * i)) as usize & 63]);
        let n = three.len();
        (0..4).map(move |i| if i <= n { digit(i) } else { '=' })
    });
    three.collect()
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&random_vocabulary(&mut Random(9)), split_steps(&[r"\p{L}+"]), true);
    let refusal = |change: &dyn Fn(&mut Value)| refusal(dir.path(), &good, change);
    let normalizer = |steps: Vec<Value>| {
        refusal(&|file| file["normalizer"] = json!({"type": "Sequence", "normalizers": steps}))
    };
    assert_eq!(
        normalizer(vec![json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})]),
        "normalizer.precompiled_charsmap: expected a trie within the 0 bytes there are, found one of 4294967295 bytes"
    );
    let every = json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "z".repeat(200)});
    assert!(normalizer(vec![every; 5]).contains("expected steps that make a text at most 1024 times longer"));
    assert_eq!(
        normalizer(vec![json!({"type": "Prepend", "prepend": "z".repeat(1025)})]),
        "normalizer.prepend: expected at most 1024 bytes of text, found 1025 bytes"
    );
    assert_eq!(
        normalizer(vec![json!({"type": "NFC"}); 100]),
        "normalizer: expected steps that make a text at most 1024 times longer, found 2187 times or more"
    );
    assert_eq!(
        normalizer(vec![json!({"type": "Nmt"}); 100]),
        "normalizer: expected at most 64 steps, found more"
    );
    let added = |id: usize, content: String| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": true, "special": false})
    };
    let one = json!([added(0, "h".repeat(1025))]);
    assert_eq!(
        refusal(&|file| file["added_tokens"] = one.clone()),
        "added_tokens.content: expected at most 1024 bytes of text, found 1025 bytes"
    );
    let many: Vec<Value> = (0..1100).map(|id| added(id, format!("{id:01000}"))).collect();
    assert!(
        refusal(&|file| file["added_tokens"] = json!(many))
            .contains("added_tokens: expected at most 1048576 bytes")
    );
    let long = "z".repeat(5000);
    assert_eq!(
        refusal(&|file| file["model"]["vocab"][&long] = json!(7000)),
        "model.vocab: expected tokens of at most 4096 bytes, found one of 5000 bytes"
    );
    assert_eq!(
        refusal(&|file| file["model"]["vocab"]["another"] = json!(97)),
        "model.vocab: expected one token to an id, found two of id 97"
    );
    assert_eq!(
        refusal(&|file| file["model"]["unk_token"] = json!(long)),
        "model.unk_token: expected at most 1024 bytes of text, found 5000 bytes"
    );
    // A number has two bytes in the file, and 32 once it is read.
    for (part, most) in [("normalizer", 1 << 16), ("pre_tokenizer", 1 << 16), ("added_tokens", 1 << 20)] {
        assert_eq!(
            refusal(&|file| file[part] = json!(vec![0; most])),
            format!("{part}: expected at most {most} values, found up to {}", most + 1)
        );
    }
    // What stands twice is checked as it is used.
    let text = good.to_string();
    let map = r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="},"#;
    let twice = dir.path().join("twice.json");
    std::fs::write(&twice, text.replacen('{', map, 1)).unwrap();
    Tokenizer::from_file(&twice, None).unwrap();
}

/// Each look-around is an expression of its own to the crate's engine, which may take ten megabytes.
#[test]
fn expressions_that_would_take_long_to_compile_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&random_vocabulary(&mut Random(14)), split_steps(&[r"\p{L}+"]), true);
    let refusal = |change: &dyn Fn(&mut Value)| refusal(dir.path(), &good, change);
    let look_around = r"(?=\w{100})";
    let expected = "expected expressions of at most 8192 bytes, counts like {3} written out, found";
    let many = look_around.repeat(1000);
    assert_eq!(
        refusal(&|file| file["pre_tokenizer"] = split_steps(&[&many])),
        format!("pre_tokenizer.pattern: {expected} {} bytes or more", usize::MAX)
    );
    // All steps have one limit, those of the normalizer and of the pre-tokenizer together.
    let replace = json!({"type": "Replace", "pattern": {"Regex": look_around}, "content": ""});
    let said = refusal(&|file| {
        file["normalizer"] = json!({"type": "Sequence", "normalizers": vec![&replace; 4]});
        file["pre_tokenizer"] = split_steps(&[look_around; 4]);
    });
    assert_eq!(said, format!("pre_tokenizer.pattern: {expected} 8800 bytes or more"));
    assert_eq!(
        refusal(&|file| file["pre_tokenizer"] = split_steps(&["(?!a)"; 33])),
        "pre_tokenizer.pattern: expected at most 32 look-arounds, found 33 or more"
    );
}

/// For every one of them the crate reads the white space around it; and, to the right, copies it.
#[test]
fn white_space_that_takes_in_white_space_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&random_vocabulary(&mut Random(12)), split_steps(&[r"\p{L}+"]), true);
    let id = good["model"]["vocab"].as_object().unwrap().len() + 2;
    let with = |content: &str, normalizer: Value, flags: [bool; 3]| {
        let mut file = good.clone();
        let [lstrip, rstrip, special] = flags;
        let token = json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": rstrip,
                           "normalized": true, "special": special});
        file["added_tokens"].as_array_mut().unwrap().push(token);
        file["normalizer"] = normalizer;
        Tokenizer::from_file(&write(dir.path(), &file), None)
    };
    let blank = json!({"type": "Replace", "pattern": {"String": "x"}, "content": "\t"});
    let said = format!(
        "tokenizer.json: added_tokens: expected no lstrip or rstrip of a token that is white space alone, found \
         those of token {id}"
    );
    for (content, normalizer) in [("  ", Value::Null), ("\u{3000}\n", Value::Null), ("xx", blank)] {
        for flags in [[true, false, false], [false, true, false]] {
            let error = with(content, normalizer.clone(), flags).unwrap_err();
            assert!(error.is_bad_file() && error.to_string().ends_with(&said), "{error}");
        }
        // Nor does the crate look for control tokens.
        for flags in [[false; 3], [true, true, true]] {
            with(content, normalizer.clone(), flags).unwrap();
        }
    }
    let tokenizer = with("<z>", Value::Null, [true, true, false]).unwrap();
    let ids = tokenizer.encode(&"  <z>  ".repeat(1 << 16), false).unwrap();
    assert_eq!(ids.first(), Some(&(id as u32)));
}

/// The crate reads a token's length on from every byte of a text that could begin it.
#[test]
fn tokens_that_the_normalizer_makes_long_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&random_vocabulary(&mut Random(13)), split_steps(&[r"\p{L}+"]), true);
    let id = good["model"]["vocab"].as_object().unwrap().len() + 2;
    let with = |n: usize| {
        let mut file = good.clone();
        let token = json!({"id": id, "content": "x".repeat(n), "single_word": false, "lstrip": false,
                           "rstrip": false, "normalized": true, "special": false});
        file["added_tokens"].as_array_mut().unwrap().push(token);
        file["normalizer"] =
            json!({"type": "Replace", "pattern": {"String": "x"}, "content": "z".repeat(100)});
        Tokenizer::from_file(&write(dir.path(), &file), None)
    };
    with(10).unwrap();
    let error = with(11).unwrap_err();
    let said = "added_tokens.content: expected at most 1024 bytes of text, found 1100 bytes once normalized";
    assert!(error.is_bad_file() && error.to_string().ends_with(said), "{error}");
}

#[test]
fn a_text_may_grow_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = random_vocabulary(&mut Random(10));
    let known = document(&vocabulary, split_steps(&[LLAMA3]), true);
    let known = Tokenizer::from_file(&write(dir.path(), &known), None).unwrap();
    let error = known.encode(&" ".repeat(9 << 20), false).unwrap_err();
    assert!(error.is_misuse());
    assert_eq!(
        error.to_string(),
        "prompt: a word of 9437184 bytes, with this tokenizer.json at most 4194304 are accepted"
    );
    let mut file = document(&vocabulary, split_steps(&[r"\p{L}+"]), true);
    file["normalizer"] = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "e".repeat(100)});
    let grows = Tokenizer::from_file(&write(dir.path(), &file), None).unwrap();
    let error = grows.encode(&"a ".repeat(50_000), false).unwrap_err().to_string();
    assert_eq!(error, "prompt: a text of 100000 bytes, with this tokenizer.json at most 41943 are accepted");
}

#[cfg(unix)]
#[test]
fn a_directory_and_a_device_are_no_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    for (path, found) in [(dir.path(), "a directory"), (Path::new("/dev/zero"), "a device or a socket")] {
        let error = Tokenizer::from_file(path, None).unwrap_err();
        let said = format!("{}: file: expected a regular file or a pipe, found {found}", path.display());
        assert!(error.is_bad_file());
        assert_eq!(error.to_string(), said);
    }
}
