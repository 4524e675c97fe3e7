//! The vocabulary inside a GGUF file.

use std::path::{Path, PathBuf};

use bitnet_core::gguf::{Access, ArrayBuf, Gguf, GgufWriter, TensorType, Value};
use bitnet_core::tokenizer::Vocabulary;
use bitnet_core::{Result, Tokenizer};

use super::{byte_level, sentence_piece};

/// A model with `n_rows` rows of embedding, and whatever `fill` sets.
fn model(dir: &Path, n_rows: usize, fill: impl FnOnce(&mut GgufWriter)) -> PathBuf {
    let path = dir.join("model.gguf");
    let mut writer = GgufWriter::new();
    fill(&mut writer);
    writer.declare("token_embd.weight", TensorType::F32, &[n_rows, 1]).unwrap();
    writer.write_file(&path, |out| out.tensor("token_embd.weight", &vec![0; n_rows * 4])).unwrap();
    path
}

fn set(writer: &mut GgufWriter, key: &str, value: Value<'_>) {
    writer.set(key, value).unwrap();
}

fn set_tokens(writer: &mut GgufWriter, vocabulary: &Vocabulary) {
    set(writer, "tokenizer.ggml.tokens", ArrayBuf::strings(&vocabulary.tokens).value());
    set(writer, "tokenizer.ggml.token_type", ArrayBuf::i32s(vocabulary.types.iter().copied()).value());
}

fn read(path: &Path) -> Result<Option<Vocabulary>> {
    Vocabulary::from_gguf(&Gguf::open(path, Access::Read)?)
}

#[test]
fn a_byte_level_vocabulary_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = byte_level(&[("a", "b")], &["<s>", "<|eot_id|>"]);
    let path = model(dir.path(), 300, |writer| {
        set_tokens(writer, &vocabulary);
        set(writer, "tokenizer.ggml.model", Value::Str(b"gpt2"));
        set(writer, "tokenizer.ggml.pre", Value::Str(b"llama-bpe"));
        set(writer, "tokenizer.ggml.merges", ArrayBuf::strings(&vocabulary.merges).value());
        set(writer, "tokenizer.ggml.bos_token_id", Value::U32(257));
        set(writer, "tokenizer.ggml.eos_token_id", Value::U32(70_000)); // no id: ignored
        set(writer, "tokenizer.ggml.eot_token_id", Value::U64(u64::MAX)); // no id either
        set(writer, "tokenizer.chat_template", Value::Str(b"{{ template }}"));
    });
    let vocabulary = read(&path).unwrap().unwrap();
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.eot), (Some(257), None, None));
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, None).unwrap();
    assert_eq!(tokenizer.encode("ab<s>", true).unwrap(), [257, 256, 60, 115, 62]);
    assert_eq!(tokenizer.chat_template(), Some("{{ template }}"));
    assert_eq!(tokenizer.end_tokens(), [258]);
    assert!(tokenizer.adds_bos());
}

#[test]
fn a_sentence_piece_vocabulary_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = sentence_piece(&[("▁a", -1.0), ("a", -2.0)]);
    let path = model(dir.path(), 261, |writer| {
        set_tokens(writer, &vocabulary);
        set(writer, "tokenizer.ggml.model", Value::Str(b"llama"));
        set(writer, "tokenizer.ggml.scores", ArrayBuf::f32s(vocabulary.scores.iter().copied()).value());
        set(writer, "tokenizer.ggml.add_bos_token", Value::Bool(false));
        set(writer, "tokenizer.ggml.add_space_prefix", Value::Bool(false));
    });
    let tokenizer = Tokenizer::from_vocabulary(read(&path).unwrap().unwrap(), None).unwrap();
    assert_eq!(tokenizer.encode("a a", false).unwrap(), [260, 259]);
    assert!(!tokenizer.adds_bos());
}

#[test]
fn a_model_without_a_vocabulary_has_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(&model(dir.path(), 1, |_| {})).unwrap().is_none());
}

#[test]
fn vocabularies_that_contradict_the_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = byte_level(&[], &[]);
    let refusal = |n_rows, fill: &dyn Fn(&mut GgufWriter)| {
        let path = model(dir.path(), n_rows, |writer| {
            set_tokens(writer, &vocabulary);
            set(writer, "tokenizer.ggml.model", Value::Str(b"gpt2"));
            fill(writer);
        });
        let error = read(&path).unwrap_err();
        assert!(error.is_bad_file(), "{error}");
        error.to_string()
    };
    let error = refusal(255, &|_| {});
    assert!(error.contains("at most 255, the rows of token_embd.weight"), "{error}");
    let types = ArrayBuf::i32s([1, 1]);
    let error = refusal(256, &|writer| set(writer, "tokenizer.ggml.token_type", types.value()));
    assert!(error.contains("tokenizer.ggml.token_type: expected 256 values, found 2"), "{error}");
    let scores = ArrayBuf::f32s([0.0; 257]);
    let error = refusal(256, &|writer| set(writer, "tokenizer.ggml.scores", scores.value()));
    assert!(error.contains("tokenizer.ggml.scores: expected 256 values, found 257"), "{error}");
    let error = refusal(256, &|writer| set(writer, "tokenizer.ggml.tokens", Value::U32(7)));
    assert!(error.contains("tokenizer.ggml.tokens"), "{error}");
    let error = refusal(256, &|writer| set(writer, "tokenizer.ggml.model", Value::Str(b"bert")));
    assert!(error.contains("\"bert\" is unknown; gpt2 and llama are supported"), "{error}");
    let none = ArrayBuf::strings::<&str>([]);
    let error = refusal(256, &|writer| set(writer, "tokenizer.ggml.tokens", none.value()));
    assert!(error.contains("tokenizer.ggml.tokens: expected 1 to 4194304 tokens, found 0"), "{error}");
}

#[test]
fn special_ids_that_are_no_integers_of_at_least_0_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = byte_level(&[], &[]);
    let some = ArrayBuf::i32s([1, 2]);
    let values = [
        (Value::Str(b"</s>"), "string \"</s>\""),
        (Value::F32(2.0), "f32 2"),
        (Value::Bool(true), "bool true"),
        (Value::I32(-1), "i32 -1"),
        (some.value(), "an array of 2 i32"),
    ];
    for name in ["bos", "eos", "eot", "eom", "unknown", "padding"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let with = |value: Value<'_>| {
            let path = model(dir.path(), 256, |writer| {
                set_tokens(writer, &vocabulary);
                set(writer, "tokenizer.ggml.model", Value::Str(b"gpt2"));
                set(writer, &key, value);
            });
            read(&path)
        };
        for (value, found) in values {
            let error = with(value).unwrap_err();
            assert!(error.is_bad_file(), "{error}");
            let said =
                format!("model.gguf: metadata key {key}: expected an integer of at least 0, found {found}");
            assert!(error.to_string().ends_with(&said), "{error}");
        }
        for id in [Value::U8(1), Value::I64(1), Value::U32(u32::MAX), Value::U64(u64::MAX)] {
            with(id).unwrap();
        }
    }
}
