//! `bitnet convert`, and models run straight from a checkpoint's directory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use crate::support::{Ran, bitnet, command};

/// Writes a checkpoint of Microsoft's kind, of one layer and `n_vocab` tokens: bf16 embeddings, packed weights. Its
/// numbers follow from their positions.
pub(crate) fn write_checkpoint(dir: &Path, n_vocab: usize) {
    let (n_embd, n_ff, n_kv) = (256, 512, 128);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), "BF16", vec![n_vocab, n_embd]),
        ("model.norm.weight".to_owned(), "BF16", vec![n_embd]),
        (layer("input_layernorm"), "BF16", vec![n_embd]),
        (layer("self_attn.attn_sub_norm"), "BF16", vec![n_embd]),
        (layer("post_attention_layernorm"), "BF16", vec![n_embd]),
        (layer("mlp.ffn_sub_norm"), "BF16", vec![n_ff]),
    ];
    for (name, rows, cols) in [
        ("self_attn.q_proj", n_embd, n_embd),
        ("self_attn.k_proj", n_kv, n_embd),
        ("self_attn.v_proj", n_kv, n_embd),
        ("self_attn.o_proj", n_embd, n_embd),
        ("mlp.gate_proj", n_ff, n_embd),
        ("mlp.up_proj", n_ff, n_embd),
        ("mlp.down_proj", n_embd, n_ff),
    ] {
        tensors.push((layer(name), "U8", vec![rows / 4, cols]));
        tensors.push((format!("model.layers.0.{name}.weight_scale"), "BF16", vec![1]));
    }
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut state = 1u32;
    for (name, dtype, shape) in tensors {
        let begin = data.len();
        let n: usize = shape.iter().product();
        for _ in 0..n {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match (dtype, shape.len()) {
                ("U8", _) => {
                    let code = |shift: u32| ((state >> 8 >> (2 * shift)) % 3) << (2 * shift);
                    data.push((code(0) | code(1) | code(2) | code(3)) as u8);
                }
                (_, 1) => data.extend(0x3f80_u16.to_le_bytes()), // 1.0
                _ => {
                    data.extend(((0x3d00 | (state >> 16 & 0x7f) | (state >> 31 << 15)) as u16).to_le_bytes())
                }
            }
        }
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
    let config = json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": n_embd, "intermediate_size": n_ff, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": n_vocab, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0, "tie_word_embeddings": true,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

fn convert(dir: &Path, out: &Path, flags: &[&str]) -> Ran {
    let paths = [dir.as_os_str(), out.as_os_str()];
    bitnet(["convert".as_ref()].into_iter().chain(paths).chain(flags.iter().map(|flag| flag.as_ref())))
}

#[test]
fn a_checkpoint_runs_as_it_is_and_as_the_file_it_becomes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    write_checkpoint(dir.path(), 300);
    let converted = convert(dir.path(), &out, &[]);
    assert_eq!(converted.done(), "");
    let size = fs::metadata(&out).unwrap().len();
    let expected = format!(
        "{}: bitnet-b1.58, 13 tensors, {size} bytes\n7 matrices unpacked, weight_scale multiplies, to I2_S\n\
         no vocabulary: the checkpoint has neither tokenizer.json nor tokenizer.model\n",
        out.display()
    );
    assert_eq!(converted.stderr, expected);
    let run = |model: &Path| {
        let flags = "--tokens 1,2,3 -n 12 --greedy --json -q -t 1";
        let model = ["run".as_ref(), "-m".as_ref(), model.as_os_str()];
        let ran = bitnet(model.into_iter().chain(flags.split(' ').map(AsRef::as_ref)));
        assert_eq!(ran.stderr, "");
        let json: serde_json::Value = serde_json::from_str(ran.done()).unwrap();
        assert_eq!(json["tokens"].as_array().unwrap().len(), 12);
        json["tokens"].clone()
    };
    assert_eq!(run(dir.path()), run(&out));
}

/// The `tokenizer.json` of a byte-level vocabulary: 256 bytes, a few merges, a token that begins every text.
pub(crate) fn write_tokenizer(dir: &Path) {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let spelt = |byte: u8| match printable(byte) {
        true => char::from(byte),
        false => char::from_u32(0x100 + (0..byte).filter(|&b| !printable(b)).count() as u32).unwrap(),
    };
    let mut vocab: Map<String, _> = (0..=255u8).map(|b| (spelt(b).to_string(), json!(b))).collect();
    // The last one only under a rule that leaves punctuation with the word after it, as this one does.
    let merges = [["l", "l"], ["H", "e"], ["He", "ll"], ["Ġ", "w"], ["1", "2"], ["(", "w"]];
    vocab.extend(merges.iter().enumerate().map(|(i, merge)| (merge.concat(), json!(256 + i))));
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": 262, "content": "<|bos|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [262], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": merges},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// One takes its tokens from tokenizer.json, the other from the vocabulary that was made of it.
#[test]
fn a_checkpoint_understands_text_as_the_file_it_becomes_does() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    write_checkpoint(dir.path(), 263);
    write_tokenizer(dir.path());
    assert!(convert(dir.path(), &out, &[]).stderr.ends_with("263 tokens, words cut by llama-bpe\n"));
    let run = |model: &Path| {
        let prompt = ["run", "-m", model.to_str().unwrap(), "-p", "Hello world, 12 é(wo"];
        let ran = bitnet(prompt.into_iter().chain("-n 20 --greedy --json -q".split(' ')));
        let json: serde_json::Value = serde_json::from_str(ran.done()).unwrap();
        ["prompt_tokens", "tokens", "text"].map(|key| json[key].clone())
    };
    let [prompt, tokens, text] = run(dir.path());
    let bytes = |text: &str| text.bytes().map(u64::from).collect::<Vec<_>>();
    let expected = [
        &[262, 258][..],
        &bytes("o"),
        &[259],
        &bytes("orld,"),
        &[0x20, 260, 0x20, 0xc3, 0xa9, 261],
        &bytes("o"),
    ]
    .concat();
    assert_eq!(prompt, json!(expected));
    assert!(tokens.as_array().is_some_and(|ids| ids.len() == 20), "{tokens}");
    assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{text}");
    assert_eq!(run(&out), [prompt, tokens, text]);
}

/// Its weights are put in order a as it is loaded: read in order b they would be another model.
#[test]
fn the_other_order_of_codes_is_refused_for_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), 300);
    let model = dir.path().to_str().unwrap();
    let run = |line: &str| bitnet(line.split(' ').chain(["-m", model]));
    let record = format!("parity --record {model}/log --tokens 1 -n 1");
    for verb in ["run --tokens 1 -n 1", "bench -p 1 -n 1 -r 1", &record] {
        let says = format!(
            "--i2s-layout b: {model} is a checkpoint, whose weights are put in order a; the flag is for GGUF files \
             that have b"
        );
        assert_eq!(run(&format!("{verb} --i2s-layout b")).refused(2), says, "{verb}");
    }
    run("run --tokens 1 -n 1 -q --i2s-layout a").done();
    let demo = bitnet("run -p 2+2= --i2s-layout b".split(' '));
    assert!(
        !cfg!(feature = "demo")
            || demo.refused(2).starts_with("--i2s-layout b: the demo model is in order a")
    );
}

#[test]
fn verbs_that_want_a_file_say_what_makes_one_of_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), 300);
    let out = dir.path().join("out.gguf");
    let [model, out] = [dir.path(), &out].map(|path| path.to_str().unwrap());
    for ran in [bitnet(["inspect", model]), bitnet(["quantize", model, out, "--type", "i2_s"])] {
        let says = format!(
            "{model}: model: expected a GGUF file, found the directory of a checkpoint, of which `bitnet convert` makes one"
        );
        assert_eq!(ran.refused(3), says);
    }
}

#[test]
fn what_is_there_is_kept_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    write_checkpoint(dir.path(), 300);
    fs::write(&out, "old").unwrap();
    assert!(convert(dir.path(), &out, &[]).refused(2).ends_with("the file exists (--force overwrites it)"));
    assert_eq!(fs::read(&out).unwrap(), b"old");
    let quiet = convert(dir.path(), &out, &["--force", "-q"]);
    assert_eq!((quiet.done(), &*quiet.stderr), ("", ""));
    assert!(fs::metadata(&out).unwrap().len() > 300 * 256 * 2);
}

#[test]
fn misuse_and_bad_checkpoints_have_codes_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let nothing = convert(dir.path(), &out, &[]);
    assert!(nothing.refused(2).contains("expected a directory with a config.json"), "{nothing:?}");
    write_checkpoint(dir.path(), 300);
    assert!(
        convert(dir.path(), &out, &["--embd", "q4_0"]).refused(2).starts_with("--embd q4_0: expected one of")
    );
    assert!(
        bitnet(["convert", "only-one"]).refused(2).starts_with("convert: expected a directory and a file")
    );
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(convert(dir.path(), &out, &[]).refused(3).contains("config.json: key model_type"));
    assert!(!out.exists());
}

/// Killed at any moment, a conversion leaves the old file or the new one, and nothing in between.
#[cfg(unix)]
#[test]
fn a_killed_conversion_leaves_no_half_written_file() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), 40_000);
    let out = dir.path().join("out.gguf");
    let start = Instant::now();
    convert(dir.path(), &out, &["-q"]).done();
    let whole_run = start.elapsed();
    let whole = fs::read(&out).unwrap();
    let (mut killed, mut finished) = (0, 0);
    const ROUNDS: u32 = 24;
    for round in 0..ROUNDS {
        fs::write(&out, "old").unwrap();
        let paths = [dir.path().as_os_str(), out.as_os_str()];
        let args = ["convert".as_ref(), "--force".as_ref(), "-q".as_ref()].into_iter().chain(paths);
        let mut child = command(args).spawn().unwrap();
        // All moments of a run, from its start to somewhat beyond its usual end.
        std::thread::sleep(
            whole_run.mul_f64(1.3 * f64::from(round) / f64::from(ROUNDS)) + Duration::from_millis(1),
        );
        child.kill().unwrap();
        let complete = child.wait().unwrap().success();
        let found = fs::read(&out).unwrap();
        assert!(found == b"old" || found == whole, "{} bytes after {round}", found.len());
        assert!(!complete || found == whole, "a run that ended well left the old file");
        (killed, finished) = (killed + u32::from(!complete), finished + u32::from(complete));
    }
    assert!(killed > 0, "{finished} runs, none of them killed");
}
