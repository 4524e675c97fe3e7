//! `bitnet inspect`: what a file holds, in words and in JSON.

use std::fs;

use crate::support::bitnet;
use crate::tiny::{on_tiny, tiny};
use bitnet_core::gguf::{ArrayBuf, GgufWriter, TensorType, Value as Meta};
use serde_json::{Value, json};

#[test]
fn the_answer_names_metadata_tensors_and_needs() {
    let ran = on_tiny("inspect", "");
    let text = ran.done();
    for part in [
        "general.architecture",
        "token_embd.weight",
        "I2_S",
        "totals:",
        "read per generated token: ",
        "memory",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(ran.stderr, "");
    assert_eq!(on_tiny("inspect", "").stdout, text, "the same file, the same answer");
    assert_eq!(bitnet([std::ffi::OsStr::new("inspect"), tiny().as_os_str()]).stdout, text);
}

#[test]
fn json_counts_every_tensor_once() {
    let object: Value = serde_json::from_str(on_tiny("inspect", "--json").done()).unwrap();
    let tensors = object["tensors"].as_array().unwrap();
    assert_eq!(object["total"]["tensors"], tensors.len());
    let bytes: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    assert_eq!(object["total"]["bytes"], bytes);
    assert_eq!(object["files"][0]["bytes"], fs::metadata(tiny()).unwrap().len());
    assert!(tensors.iter().any(|tensor| tensor["type"] == "I2_S" && tensor["kernel"].is_string()));
    let tokens = &object["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!(tokens["array_of"], "string");
    assert!(tokens["len"].as_u64().unwrap() > 8 && tokens["first"].as_array().unwrap().len() == 8);
}

#[test]
fn a_longer_context_needs_more_memory() {
    let need = |line: &str| -> u64 {
        let object: Value = serde_json::from_str(on_tiny("inspect", line).done()).unwrap();
        object["memory"]["kv_cache_bytes"].as_u64().unwrap()
    };
    assert_eq!(need("--json -c 2048"), 2 * need("--json -c 1024"));
}

#[test]
fn a_hostile_file_cannot_write_to_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let mut writer = GgufWriter::new();
    let names = ArrayBuf::strings([&b"\x1b[31m"[..], b"\xff\xfe", b"plain"]);
    writer.set("general.architecture", Meta::Str(b"bitnet\x1b]0;title\x07")).unwrap();
    writer.set("general.name", Meta::Str(b"\xff\xfebad\r\n")).unwrap();
    writer.set("a.names", names.value()).unwrap();
    writer.set("a.nan", Meta::F32(f32::NAN)).unwrap();
    writer.set("a.eps", Meta::F32(1e-5)).unwrap();
    writer.set("a.big", Meta::U64(u64::MAX)).unwrap();
    writer.declare("t", TensorType::F32, &[1]).unwrap();
    let mut file = writer.write(&path, fs::File::create(&path).unwrap()).unwrap();
    file.tensor("t", &[0; 4]).unwrap();
    file.finish().unwrap();

    let path = path.to_str().unwrap();
    let text = bitnet(["inspect", path]);
    assert!(text.done().chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(text.stdout.contains(r"\xff\xfebad\r\n") && text.stdout.contains(r"\u{1b}[31m"), "{text:?}");

    let object: Value = serde_json::from_str(bitnet(["inspect", path, "--json"]).done()).unwrap();
    let metadata = &object["metadata"];
    assert_eq!(metadata["a.names"], json!([r"\u{1b}[31m", r"\xff\xfe", "plain"]));
    assert_eq!((&metadata["a.nan"], &metadata["a.eps"]), (&json!("NaN"), &json!(1e-5)));
    assert_eq!(metadata["a.big"], json!(u64::MAX));
}
