//! Checkpoints that are damaged, contradict themselves or mean harm: one sentence, no panic, and OUT as it was.

use std::fs;
use std::io::Write;

use bitnet_core::hf::{Checkpoint as Converter, ConvertOptions};
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Float, container, tiny, with_header};
use super::{Random, convert, refusal};

/// What is said of the tiny model after `spoil`.
#[track_caller]
fn spoilt(spoil: impl FnOnce(&mut Checkpoint)) -> String {
    let mut c = tiny(16);
    spoil(&mut c);
    refusal(c.write(1).path())
}

/// What is said of a `model.safetensors` of these bytes.
#[track_caller]
fn said_of(bytes: &[u8]) -> String {
    let dir = tiny(16).write(1);
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refusal(dir.path())
}

#[test]
fn configurations_are_checked_key_by_key() {
    let set = |key: &'static str, value: Value| spoilt(move |c| c.config[key] = value);
    assert_eq!(
        set("hidden_size", json!(-5)),
        "config.json: key hidden_size: expected an integer from 1 to 1048576, found -5"
    );
    assert_eq!(
        set("num_hidden_layers", json!(1_000_000_000)),
        "config.json: key num_hidden_layers: expected an integer from 1 to 1024, found 1000000000"
    );
    assert!(
        set("num_key_value_heads", json!(3))
            .contains("expected a divisor of num_attention_heads, 2, found 3")
    );
    assert!(set("head_dim", json!(63)).contains("expected an even width of a head, at most 1024, found 63"));
    assert!(
        set("rms_norm_eps", json!(0)).contains("key rms_norm_eps: expected a finite number above 0, found 0")
    );
    assert!(set("rope_theta", json!("NaN")).contains("key rope_theta: expected a finite number above 0"));
    assert!(
        set("vocab_size", Value::Null)
            .contains("key vocab_size: expected an integer from 1 to 4194304, found nothing")
    );
    assert!(
        set("hidden_act", json!("gelu"))
            .contains("key hidden_act: \"gelu\": only relu2 and silu are known here")
    );
    assert!(
        set("rope_scaling", json!({"type": "yarn"}))
            .contains("key rope_scaling.type: \"yarn\": only default")
    );
    assert!(set("rope_scaling", json!({"type": "linear"})).contains("key rope_scaling.factor: expected"));
    assert!(set("quantization_config", json!({"quant_method": "awq"})).contains("only bitnet is known here"));
    let normed = json!({"quant_method": "bitnet", "use_rms_norm": true});
    assert!(set("quantization_config", normed).contains("key quantization_config.use_rms_norm: true"));
    let excluded =
        json!({"quant_method": "bitnet", "modules_to_not_convert": ["model.layers.0.mlp.up_proj"]});
    assert!(set("quantization_config", excluded).contains("is a projection"));
    let class = json!({"linear_class": "otherlinear"});
    assert!(
        set("quantization_config", class)
            .contains("expected bitlinear or autobitlinear, found \"otherlinear\"")
    );
    let other = spoilt(|c| {
        c.config["model_type"] = json!("qwen3");
        c.config["architectures"] = json!(["Qwen3ForCausalLM"]);
    });
    assert_eq!(other, "config.json: key model_type: \"qwen3\": only bitnet and llama are converted");
}

#[test]
fn json_that_is_none_is_refused() {
    let deep = "[".repeat(200_000);
    for (text, expected) in [
        ("", "config.json: file: expected a JSON object, found EOF"),
        ("[1]", "config.json: file: expected a JSON object, found another JSON value"),
        (r#"{"hidden_size": "#, "config.json: file: expected a JSON object, found EOF"),
        (&format!(r#"{{"a": {deep}"#), "found recursion limit exceeded"),
        ("{\"a\": \"\u{1b}[2J\u{0}\"}", "control character"),
    ] {
        let dir = tiny(16).write(1);
        fs::write(dir.path().join("config.json"), text).unwrap();
        let found = refusal(dir.path());
        assert!(found.contains(expected), "{found}");
    }
    let dir = tiny(16).write(1);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    fs::create_dir(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("expected a regular file"));
}

#[test]
fn containers_are_checked_before_anything_is_believed() {
    assert_eq!(said_of(b""), "model.safetensors: file size: expected at least 8 bytes, found 0");
    let found = said_of(&u64::MAX.to_le_bytes());
    assert_eq!(
        found,
        "model.safetensors: length of the header: expected at most 0 bytes, found 18446744073709551615"
    );
    assert!(
        said_of(&with_header("[1, 2]", b"")).contains("header: expected a JSON object, found invalid type")
    );
    let one =
        |entry: &str, data: usize| said_of(&with_header(&format!(r#"{{"x": {entry}}}"#), &vec![0; data]));
    for (entry, data, expected) in [
        (
            r#"{"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}"#,
            4,
            "expected a known dtype, found \"F99\"",
        ),
        (
            r#"{"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}"#,
            4,
            "expected a shape of non-negative integers, found [-1]",
        ),
        (
            r#"{"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}"#,
            4,
            "expected a shape of non-negative integers, found [1.5]",
        ),
        (
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}"#,
            4,
            "expected data_offsets within the 4 bytes of data, found [0, 8]",
        ),
        (
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}"#,
            4,
            "expected data_offsets within the 4 bytes of data, found [4, 0]",
        ),
        (
            r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}"#,
            4,
            "expected 8 bytes for F32 [2], found 4",
        ),
        (
            r#"{"dtype": "F32", "shape": [4294967296, 4294967296, 8], "data_offsets": [0, 4]}"#,
            4,
            "a shape that can be counted",
        ),
        (
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}"#,
            8,
            "expected data from 0, found 4, after a gap",
        ),
        (
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}"#,
            8,
            "size of the data: expected 4 bytes, the tensors together, found 8",
        ),
        (r#"{"dtype": "F32"}"#, 0, "found nothing"),
        ("7", 0, "tensor x: expected a JSON object"),
    ] {
        let found = one(entry, data);
        assert!(found.contains(expected), "{found}");
    }
    let twice = r#"{"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                    "y": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}"#;
    assert!(
        said_of(&with_header(twice, b"abc"))
            .contains("tensor y: expected data from 2, found 1, which overlaps")
    );
}

/// A download that broke off, wherever it did.
#[test]
fn a_file_cut_short_is_refused_at_every_length() {
    let whole = container(tiny(16).tensors.iter());
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let dir = tiny(16).write(1);
    for n in (0..header).step_by(61).chain([7, 8, header - 1, header, header + 1, whole.len() - 1]) {
        fs::write(dir.path().join("model.safetensors"), &whole[..n]).unwrap();
        let found = refusal(dir.path());
        let expected = match n {
            0..8 => format!("file size: expected at least 8 bytes, found {n}"),
            n if n < header => {
                format!("length of the header: expected at most {} bytes, found {}", n - 8, header - 8)
            }
            _ => format!("within the {} bytes of data", n - header),
        };
        assert!(found.starts_with("model.safetensors: ") && found.contains(&expected), "{n}: {found}");
    }
    fs::write(dir.path().join("model.safetensors"), &whole).unwrap();
    convert(dir.path()).unwrap();
}

/// The file would have room for it, but no header is that long.
#[test]
fn a_length_beyond_the_limit_is_refused_before_memory_is_taken() {
    let dir = tiny(16).write(1);
    let mut file = fs::File::create(dir.path().join("model.safetensors")).unwrap();
    file.set_len(1 << 26).unwrap();
    file.write_all(&(1u64 << 25).to_le_bytes()).unwrap();
    assert_eq!(
        refusal(dir.path()),
        "model.safetensors: length of the header: expected at most 16777216 bytes, found 33554432"
    );
}

#[test]
fn a_missing_shard_is_named() {
    let dir = tiny(16).write(3);
    convert(dir.path()).unwrap();
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    let found = refusal(dir.path());
    assert!(found.contains("model-00002-of-00003.safetensors") && found.contains("cannot open"), "{found}");
}

#[test]
fn an_index_leads_nowhere_else() {
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", "", ".."] {
        let dir = tiny(16).write(2);
        let index = json!({"weight_map": {"x": name}});
        fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let found = refusal(dir.path());
        let expected =
            "key weight_map.x: expected the name of a .safetensors file in the same directory, found";
        assert!(found.contains(expected), "{found}");
    }
    let dir = tiny(16).write(2);
    let index = json!({"weight_map": {"x": "model-00001-of-00002.safetensors"}});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(
        refusal(dir.path())
            .contains("tensor x: expected a tensor in model-00001-of-00002.safetensors, found none")
    );
    fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
    let neither = refusal(dir.path());
    assert!(
        neither.contains("expected model.safetensors or model.safetensors.index.json, found neither"),
        "{neither}"
    );
}

#[test]
fn tensors_must_be_what_the_configuration_says() {
    const UP: &str = "model.layers.0.mlp.up_proj";
    let missing = spoilt(|c| drop(c.tensors.remove("model.norm.weight")));
    assert_eq!(
        missing,
        "model.safetensors: tensor model.norm.weight: expected a tensor of shape [128], found no such tensor"
    );
    let shape = spoilt(|c| c.config["intermediate_size"] = json!(384));
    assert!(shape.contains("expected shape [96, 128], found [64, 128]"), "{shape}");
    let unscaled = spoilt(|c| drop(c.tensors.remove(&format!("{UP}.weight_scale"))));
    assert!(unscaled.contains("up_proj.weight_scale: expected the scale of a packed matrix, found no such"));
    let integer = spoilt(|c| c.raw("model.norm.weight", "I8", &[128], vec![0; 128]));
    assert!(integer.contains("expected BF16, F16 or F32, found I8"), "{integer}");
    let unpacked = spoilt(|c| c.raw(&format!("{UP}.weight"), "I8", &[256, 128], vec![0; 256 * 128]));
    assert!(unpacked.contains("up_proj.weight: expected") && unpacked.ends_with("found I8"), "{unpacked}");
    let packed_embedding =
        spoilt(|c| c.raw("model.embed_tokens.weight", "U8", &[16, 128], vec![1; 16 * 128]));
    assert!(packed_embedding.contains("expected BF16, F16 or F32, found U8"), "{packed_embedding}");
    let code = spoilt(|c| c.tensors.get_mut(&format!("{UP}.weight")).unwrap().bytes[130] |= 0b1100);
    assert_eq!(
        code,
        format!(
            "model.safetensors: tensor {UP}.weight, row 65, column 2: expected a code of at most 2, found 3"
        )
    );
    let infinite = spoilt(|c| {
        c.floats("model.embed_tokens.weight", Float::F32, &[16, 128], &vec![1e9; 16 * 128]);
    });
    assert!(
        infinite.contains("tensor model.embed_tokens.weight, row 0, column 0: expected finite values"),
        "{infinite}"
    );
}

/// Whatever is done to a header or a configuration, the answer is a file or a sentence.
#[test]
fn mutated_headers_never_panic() {
    let c = tiny(16);
    let dir = c.write(1);
    let whole = container(c.tensors.iter());
    let config = c.config.to_string().into_bytes();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut random = Random(99);
    let mut refused = 0;
    for round in 0..600 {
        let (file, bytes, end) = match round % 2 {
            0 => ("model.safetensors", &whole, header),
            _ => ("config.json", &config, config.len()),
        };
        let mut mutated = bytes.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(end);
            mutated[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => b"0123456789[]{}\",:.-"[random.below(19)],
                _ => mutated[random.below(end)],
            };
        }
        if random.below(8) == 0 {
            mutated.truncate(random.below(end));
        }
        fs::write(dir.path().join(file), mutated).unwrap();
        if let Ok(converter) = Converter::open(dir.path(), &ConvertOptions::default()) {
            let _ = converter.load(&mut |_, _| {});
        } else {
            refused += 1;
        }
        fs::write(dir.path().join(file), bytes).unwrap();
    }
    assert!(refused > 300, "{refused} of 600");
    convert(dir.path()).unwrap();
}

/// A failure on the way leaves the old file, and no temporary one.
#[test]
fn a_failed_conversion_leaves_the_old_file() {
    let mut c = tiny(16);
    c.tensors.get_mut("model.layers.0.mlp.down_proj.weight").unwrap().bytes[7] = 0xff; // found last
    let dir = c.write(1);
    fs::write(dir.path().join("out.gguf"), b"old").unwrap();
    let before = fs::read_dir(dir.path()).unwrap().count();
    assert!(refusal(dir.path()).contains("down_proj.weight, row"));
    assert_eq!(fs::read(dir.path().join("out.gguf")).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}
