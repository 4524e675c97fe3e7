//! Sound containers whose contents make no model: the sentence names the key or the tensor, and the exit code is 3.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cheap::refused_cheaply;
use crate::support::bitnet;
use crate::tiny::tiny;
use bitnet_core::gguf::{Access, ArrayBuf, Gguf, GgufWriter, Value};

/// A model to be spoilt: the tiny synthetic one, two layers of 256 with four heads, two of them for keys and values.
struct Spoilt {
    folder: tempfile::TempDir,
    source: Gguf,
}

impl Spoilt {
    fn new() -> Spoilt {
        let source = Gguf::open(tiny(), Access::Map).unwrap();
        Spoilt { folder: tempfile::tempdir().unwrap(), source }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("spoilt.gguf")
    }

    /// Writes the model with `key` set to `value`, or without it.
    fn with_key(&self, key: &str, value: Option<Value<'_>>) -> PathBuf {
        self.write(
            |writer| {
                if let Some(value) = value {
                    writer.set(key, value).unwrap();
                }
            },
            |name| name != key,
            |_, _| {},
        )
    }

    /// Writes the model without `tensor`.
    fn without(&self, tensor: &str) -> PathBuf {
        assert!(self.source.tensor(tensor).is_some(), "no tensor {tensor}");
        self.write(|_| {}, |name| name != tensor, |_, _| {})
    }

    /// Writes the model with the bytes of `tensor` changed.
    fn with_bytes(&self, tensor: &str, change: impl Fn(&mut [u8])) -> PathBuf {
        assert!(self.source.tensor(tensor).is_some(), "no tensor {tensor}");
        self.write(
            |_| {},
            |_| true,
            |name, bytes| {
                if name == tensor {
                    change(bytes);
                }
            },
        )
    }

    fn write(
        &self,
        set: impl Fn(&mut GgufWriter),
        keep: impl Fn(&str) -> bool,
        change: impl Fn(&str, &mut [u8]),
    ) -> PathBuf {
        let mut writer = GgufWriter::new();
        for (key, value) in self.source.metadata().iter().filter(|(key, _)| keep(key)) {
            writer.set(key, value).unwrap();
        }
        set(&mut writer);
        let tensors = || self.source.tensors().iter().filter(|info| keep(&info.name));
        for info in tensors() {
            writer.declare(&info.name, info.ty, &info.shape).unwrap();
        }
        let mut out = writer.write(&self.path(), Vec::new()).unwrap();
        for info in tensors() {
            let mut bytes = self.source.bytes_of(info).unwrap().to_vec();
            change(&info.name, &mut bytes);
            out.tensor(&info.name, &bytes).unwrap();
        }
        fs::write(self.path(), out.finish().unwrap()).unwrap();
        self.path()
    }
}

/// What the verbs that load the whole model say about it; the same for both.
#[track_caller]
fn refusal(path: &Path) -> String {
    let name = path.to_str().expect("temporary folders are UTF-8");
    let bench = refused_cheaply(path, &["bench", "-p", "1", "-n", "0", "-r", "1", "-m", name]);
    assert_eq!(run_refusal(path), bench, "two verbs disagree about one file");
    bench
}

#[track_caller]
fn run_refusal(path: &Path) -> String {
    let name = path.to_str().expect("temporary folders are UTF-8");
    refused_cheaply(path, &["run", "-p", "hi", "-n", "1", "-m", name])
}

#[test]
fn a_hyperparameter_that_makes_no_sense_is_named() {
    let spoilt = Spoilt::new();
    let unequal = ArrayBuf::i32s([4, 2]);
    let of_three = ArrayBuf::i32s([4, 4, 4]);
    let (u, f) = (Value::U32, Value::F32);
    for (key, value) in [
        ("block_count", None),
        ("block_count", Some(u(0))),
        ("block_count", Some(u(1025))),
        ("block_count", Some(Value::U64(u64::MAX))),
        ("block_count", Some(Value::I32(-1))),
        ("block_count", Some(f(2.0))),
        ("block_count", Some(Value::Str(b"2"))),
        ("embedding_length", None),
        ("embedding_length", Some(u(0))),
        ("embedding_length", Some(u(u32::MAX))),
        ("embedding_length", Some(u(260))), // heads of 65, which cannot be rotated in pairs
        ("feed_forward_length", None),
        ("feed_forward_length", Some(u(0))),
        ("feed_forward_length", Some(u(u32::MAX))),
        ("context_length", None),
        ("context_length", Some(u(0))),
        ("context_length", Some(u((1 << 20) + 1))),
        ("context_length", Some(Value::U64(u64::MAX))),
        ("attention.head_count", None),
        ("attention.head_count", Some(u(0))),
        ("attention.head_count", Some(u(6))),
        ("attention.head_count", Some(u(u32::MAX))),
        ("attention.head_count", Some(unequal.value())),
        ("attention.head_count", Some(of_three.value())),
        ("attention.head_count_kv", Some(u(0))),
        ("attention.head_count_kv", Some(u(3))),
        ("attention.head_count_kv", Some(u(8))),
        ("attention.key_length", Some(u(0))),
        ("attention.key_length", Some(u(63))),
        ("attention.key_length", Some(u(1026))),
        ("attention.value_length", Some(u(32))),
        ("attention.layer_norm_rms_epsilon", None),
        ("attention.layer_norm_rms_epsilon", Some(f(0.0))),
        ("attention.layer_norm_rms_epsilon", Some(f(-1e-5))),
        ("attention.layer_norm_rms_epsilon", Some(f(f32::NAN))),
        ("attention.layer_norm_rms_epsilon", Some(f(f32::INFINITY))),
        ("attention.layer_norm_rms_epsilon", Some(Value::F64(1e-5))),
        ("rope.freq_base", Some(f(0.0))),
        ("rope.freq_base", Some(f(f32::NAN))),
        ("rope.freq_base", Some(f(f32::NEG_INFINITY))),
        ("rope.freq_base", Some(u(10_000))),
        ("rope.dimension_count", Some(u(32))),
        ("rope.scaling.type", Some(Value::Str(b"yarn"))),
        ("rope.scaling.factor", Some(f(f32::NAN))),
        ("rope.scaling.factor", Some(f(-1.0))),
        ("vocab_size", Some(u(321))),
        ("vocab_size", Some(Value::I64(-1))),
    ] {
        let key = format!("bitnet-b1.58.{key}");
        let shown = value.map_or("nothing".into(), |v| v.to_string());
        let sentence = refusal(&spoilt.with_key(&key, value));
        assert!(
            sentence.starts_with(&format!("metadata key {key}: expected ")),
            "{key} of {shown}: {sentence}"
        );
    }
}

#[test]
fn an_architecture_that_is_missing_or_unknown_is_named() {
    let spoilt = Spoilt::new();
    for value in [None, Some(Value::U32(1)), Some(Value::Str(b"\xff"))] {
        let sentence = refusal(&spoilt.with_key("general.architecture", value));
        assert!(sentence.starts_with("metadata key general.architecture: expected "), "{sentence}");
    }
    let sentence = refusal(&spoilt.with_key("general.architecture", Some(Value::Str(b"gpt2"))));
    assert!(sentence.starts_with("architecture \"gpt2\": this engine runs bitnet-b1.58, "), "{sentence}");
}

#[test]
fn sizes_that_disagree_with_the_tensors_name_the_tensor() {
    let spoilt = Spoilt::new();
    for (key, value, says) in [
        ("block_count", 3, "tensor blk.2.attn_norm.weight: expected shape [256], found no such tensor"),
        ("block_count", 1, "tensor blk.1.attn_norm.weight: this architecture has no such tensor here"),
        (
            "feed_forward_length",
            1024,
            "tensor blk.0.ffn_gate.weight: expected shape [1024, 256], found [512, 256]",
        ),
        (
            "attention.head_count_kv",
            4,
            "tensor blk.0.attn_k.weight: expected shape [256, 256], found [128, 256]",
        ),
    ] {
        let sentence = refusal(&spoilt.with_key(&format!("bitnet-b1.58.{key}"), Some(Value::U32(value))));
        assert_eq!(sentence, says, "{key} {value}");
    }
}

#[test]
fn a_tensor_that_is_missing_is_named() {
    let spoilt = Spoilt::new();
    for (tensor, expected) in [
        ("token_embd.weight", "a matrix of 256 columns"),
        ("output_norm.weight", "shape [256]"),
        ("blk.1.ffn_up.weight", "shape [512, 256]"),
    ] {
        let says = format!("tensor {tensor}: expected {expected}, found no such tensor");
        assert_eq!(refusal(&spoilt.without(tensor)), says);
    }
}

#[test]
fn a_scale_that_is_no_number_names_its_tensor() {
    let spoilt = Spoilt::new();
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let path = spoilt.with_bytes("blk.1.ffn_up.weight", |bytes| {
            let at = bytes.len() - 32; // the scale, then 28 bytes of nothing
            bytes[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        });
        let sentence = refusal(&path);
        assert_eq!(
            sentence,
            format!("tensor blk.1.ffn_up.weight: expected a finite scale after the codes, found {scale}")
        );
    }
}

#[test]
fn a_norm_that_is_no_number_names_its_tensor_and_place() {
    let spoilt = Spoilt::new();
    for weight in [f32::NAN, f32::INFINITY] {
        let path = spoilt.with_bytes("blk.0.ffn_norm.weight", |bytes| {
            bytes[12..16].copy_from_slice(&weight.to_le_bytes());
        });
        let says = format!("tensor blk.0.ffn_norm.weight: expected finite numbers, found {weight} at 3");
        assert_eq!(refusal(&path), says);
    }
}

#[test]
fn a_code_that_is_no_weight_names_its_tensor() {
    let spoilt = Spoilt::new();
    let path = spoilt.with_bytes("blk.0.attn_v.weight", |bytes| bytes[5000] |= 0b1100);
    assert_eq!(
        refusal(&path),
        "tensor blk.0.attn_v.weight: expected codes 0, 1 and 2, found code 3 in byte 5000"
    );
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_named() {
    let spoilt = Spoilt::new();
    let n_tokens = spoilt.source.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap().len();
    let one_more = ArrayBuf::strings(vec!["x"; n_tokens + 1]);
    let no_strings = ArrayBuf::i32s([1, 2]);
    let few = ArrayBuf::i32s([1, 2, 3]);
    let few_scores = ArrayBuf::f32s([0.5]);
    for (key, value) in [
        ("model", Value::Str(b"wordpiece")),
        ("model", Value::Bool(true)),
        ("pre", Value::Str(b"no-such-rule")),
        ("tokens", no_strings.value()),
        ("token_type", few.value()),
        ("scores", few_scores.value()),
        ("scores", few.value()),
        ("merges", few.value()),
        ("add_bos_token", Value::U32(1)),
        ("bos_token_id", Value::I32(-1)),
        ("eos_token_id", Value::Str(b"no id")),
        ("padding_token_id", Value::F32(2.0)),
    ] {
        let key = format!("tokenizer.ggml.{key}");
        let sentence = run_refusal(&spoilt.with_key(&key, Some(value)));
        assert!(sentence.starts_with(&format!("metadata key {key}: ")), "{key}: {sentence}");
    }
    let path = spoilt.write(
        |writer| writer.set("tokenizer.ggml.tokens", one_more.value()).unwrap(),
        |key| !matches!(key, "tokenizer.ggml.tokens" | "tokenizer.ggml.token_type"),
        |_, _| {},
    );
    let sentence = run_refusal(&path);
    assert!(
        sentence.starts_with("metadata key tokenizer.ggml.tokens: expected at most 320, the rows of "),
        "{sentence}"
    );
}

/// What published files get wrong without harm: ids of tokens that do not exist, more rows of embeddings than tokens,
/// merges that are none.
#[test]
fn oddities_of_published_files_are_no_faults() {
    let spoilt = Spoilt::new();
    let runs = |path: &Path| {
        let name = path.to_str().expect("temporary folders are UTF-8");
        let ran = bitnet([
            "run",
            "-p",
            "ab",
            "-n",
            "8",
            "--temp",
            "50",
            "--top-k",
            "0",
            "--ignore-eos",
            "-m",
            name,
        ]);
        ran.done();
    };
    for id in [Value::U32(u32::MAX), Value::U32(320), Value::U64(u64::MAX)] {
        for name in ["bos", "eos", "padding"] {
            runs(&spoilt.with_key(&format!("tokenizer.ggml.{name}_token_id"), Some(id)));
        }
    }
    let merges = ArrayBuf::strings([&b"a b"[..], b"ab", b"", b" ", b"\xff \xfe"]);
    runs(&spoilt.with_key("tokenizer.ggml.merges", Some(merges.value())));

    let tokens = spoilt.source.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let few = ArrayBuf::strings(tokens.take(300));
    let path = spoilt.write(
        |writer| writer.set("tokenizer.ggml.tokens", few.value()).unwrap(),
        |key| !matches!(key, "tokenizer.ggml.tokens" | "tokenizer.ggml.token_type"),
        |_, _| {},
    );
    runs(&path);
}
