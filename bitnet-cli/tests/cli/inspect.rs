//! `bitnet inspect`: what a file holds, in words and in JSON.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Ran, bitnet};
use crate::tiny::{on_tiny, tiny};
use bitnet_core::gguf::{Access, ArrayBuf, Gguf, GgufWriter, TensorInfo, TensorType, Value as Meta};
use bitnet_core::quant::ternary::{Packing, Reading};
use bitnet_core::quant::tl_tiles::TileTable;
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

/// A column is as wide as its widest cell, and no wider than a line for people.
#[test]
fn a_key_of_any_length_is_one_cell_of_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.gguf");
    let mut writer = GgufWriter::new();
    writer.set(&"\x01".repeat(13_108), Meta::U8(7)).unwrap();
    writer.set("general.architecture", Meta::Str(b"bitnet-b1.58")).unwrap();
    writer.write_file(&path, |_| Ok(())).unwrap();
    let ran = inspect(&path, "");
    assert!(ran.done().lines().all(|line| line.chars().count() < 200), "{ran:?}");
    assert!(ran.stdout.contains(r"  \u{1}\u{1}\u{1}") && ran.stdout.contains("...  u8 "), "{ran:?}");
    assert!(
        inspect(&path, "--json").done().contains(&r"\\u{1}".repeat(13_108)),
        "whole where nothing is padded"
    );
}

/// `bitnet inspect PATH words...`.
fn inspect(path: &Path, line: &str) -> Ran {
    bitnet(["inspect", path.to_str().unwrap()].into_iter().chain(line.split_whitespace()))
}

/// A file of tensors with these bytes.
fn file_of(path: &Path, tensors: &[(&str, TensorType, [usize; 2], Vec<u8>)]) {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Meta::Str(b"bitnet-b1.58")).unwrap();
    writer.set("general.file_type", Meta::U32(39)).unwrap(); // so that type 39 is TL2
    for (name, ty, shape, _) in tensors {
        writer.declare(name, *ty, shape).unwrap();
    }
    writer.write_file(path, |out| tensors.iter().try_for_each(|t| out.tensor(t.0, &t.3))).unwrap();
}

/// 3 of 8 codes are -1, 1 of 8 are 0, 4 of 8 are +1.
fn known(n: usize) -> Vec<i8> {
    [-1, 1, 1, -1, 0, 1, -1, 1].into_iter().cycle().take(n).collect()
}

/// A matrix of known codes.
fn packed(ty: TensorType, (rows, cols): (usize, usize), scales: &[f32], reading: &Reading) -> Vec<u8> {
    let packing = Packing::of(ty, rows, cols, reading).unwrap().unwrap();
    packing.pack(&known(rows * cols), (rows, cols), scales).unwrap()
}

#[test]
fn verify_counts_the_codes_of_every_ternary_format() {
    let folder = tempfile::tempdir().unwrap();
    let (path, config) = (folder.path().join("all.gguf"), folder.path().join("tiles.ini"));
    let section = |k: usize, bk: usize| format!("[Kernels]\nm = 32\nk = {k}\nbm = 32\nbk = {bk}\nbmm = 32\n");
    let ini = section(256, 64) + &section(320, 96);
    fs::write(&config, &ini).unwrap();
    let reading = Reading { tiles: Some(TileTable::parse(&ini).unwrap()), ..Reading::default() };

    let mut scales: Vec<f32> = (0..32).map(|row| 0.5 + row as f32).collect();
    let mut tensors = vec![("rows", TensorType::IQ2_BN, [32, 256], Vec::new())];
    tensors[0].3 = packed(TensorType::IQ2_BN, (32, 256), &scales, &reading);
    scales.fill(0.75);
    for (name, ty, cols) in [
        ("i2_s", TensorType::I2_S, 256),
        ("tl1", TensorType::TL1, 256),
        ("tl2", TensorType::TL2, 320),
        ("tq1_0", TensorType::TQ1_0, 256),
        ("tq2_0", TensorType::TQ2_0, 256),
        ("iq1_bn", TensorType::IQ1_BN, 256),
        ("iq2_bn", TensorType::IQ2_BN, 256),
    ] {
        tensors.push((name, ty, [32, cols], packed(ty, (32, cols), &scales, &reading)));
    }
    // Four scales, then codes: 0x55 is four zeros.
    let mut r4 = [0.75f32.to_le_bytes(); 4].concat();
    r4.resize(16 + 4 * 64 / 4, 0x55);
    tensors.push(("iq2_bn_r4", TensorType::IQ2_BN_R4, [4, 64], r4));
    tensors.push(("dense", TensorType::F32, [1, 1], vec![0; 4]));
    file_of(&path, &tensors);

    let flags = format!("--verify --tl-config {}", config.display());
    let ran = inspect(&path, &format!("{flags} --json"));
    let object: Value = serde_json::from_str(ran.done()).unwrap();
    assert_eq!(object["verify"]["sound"], true);
    let found = object["verify"]["tensors"].as_array().unwrap();
    assert_eq!(found.len(), tensors.len() - 1, "all but the dense one");
    for (found, (name, ty, [rows, cols], _)) in found.iter().zip(&tensors) {
        let n = rows * cols;
        let (minus, zero, plus) = if *name == "iq2_bn_r4" { (0, n, 0) } else { (3 * n / 8, n / 8, n / 2) };
        let (low, high) = if *name == "rows" { (0.5, 31.5) } else { (0.75, 0.75) };
        let expected = json!({
            "name": name, "type": ty.name(), "minus": minus, "zero": zero, "plus": plus,
            "min_scale": low, "max_scale": high, "fault": null,
        });
        assert_eq!(*found, expected);
    }
    let text = inspect(&path, &flags);
    let words: Vec<String> =
        text.done().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "i2_s I2_S 3072 1024 4096 12.5 % 0.75",
        "rows IQ2_BN 3072 1024 4096 12.5 % 0.5 to 31.5",
        "9 tensors verified: every code has a meaning, every scale is a number",
    ] {
        assert!(words.iter().any(|found| found == line), "{line} is missing in\n{}", text.stdout);
    }
    assert!(inspect(&path, "").done().len() < text.stdout.len(), "only if it is asked for");
    // Without their tile sizes two tensors cannot be read, and the others still are.
    let ran = inspect(&path, "--verify");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stdout.ends_with("damaged or unreadable: 2 of 9 tensors\n"), "{ran:?}");
}

#[test]
fn verify_finds_a_planted_code_3_and_a_scale_that_is_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    let usual = Reading::default();
    let sound = packed(TensorType::I2_S, (32, 256), &[0.75], &usual);
    let (mut code, mut nan) = (sound.clone(), sound.clone());
    code[5 * 64] |= 3 << 4; // row 5, weight 32
    nan[32 * 64..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let tq = packed(TensorType::TQ1_0, (32, 256), &[0.75; 32], &usual);
    let mut digits = tq.clone();
    digits[7 * 54] =
        (0..=255).find(|byte| (0..243u16).all(|v| (v * 256).div_ceil(243) != *byte)).unwrap() as u8;
    let t = |name, ty, bytes: &Vec<u8>| (name, ty, [32, 256], bytes.clone());
    let (i2s, tq1) = (TensorType::I2_S, TensorType::TQ1_0);
    let says = |bad: &[(&'static str, TensorType, [usize; 2], Vec<u8>)]| {
        file_of(&path, bad);
        let ran = inspect(&path, "--verify");
        assert_eq!(ran.code, Some(3), "{ran:?}");
        let prefix = format!("bitnet: {}: tensor ", path.display());
        (ran.stderr.strip_prefix(&prefix).unwrap().trim_end().to_owned(), ran.stdout)
    };
    let code_says = "expected codes of at most 2, found code 3 at row 5, column 32";
    let nan_says = "expected a finite scale after the codes, found NaN";
    let digits_says = "expected base-3 digits in every byte, found a byte without any at row 7, column 0";
    assert_eq!(says(&[t("a", i2s, &sound), t("b", i2s, &code)]).0, format!("b: {code_says}"));
    assert_eq!(says(&[t("a", i2s, &nan), t("b", i2s, &sound)]).0, format!("a: {nan_says}"));
    assert_eq!(says(&[t("a", tq1, &tq), t("b", tq1, &digits)]).0, format!("b: {digits_says}"));
    // All are told, whichever comes first.
    let (first, text) = says(&[t("a", i2s, &nan), t("b", i2s, &sound), t("c", i2s, &code)]);
    assert_eq!(first, format!("a: {nan_says}"));
    assert!(text.contains(nan_says) && text.contains(code_says), "{text}");
    assert!(text.ends_with("damaged or unreadable: 2 of 3 tensors\n"), "{text}");

    let ran = inspect(&path, "--verify --layout-test --json");
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(3), 1), "{ran:?}");
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(object["verify"]["sound"], false);
    assert_eq!(object["verify"]["tensors"][0]["fault"], nan_says);
    assert_eq!(object["verify"]["tensors"][1]["fault"], Value::Null);
    assert_eq!(object.get("layout_test"), None, "what is damaged is not run");
    // The header alone has nothing to complain about.
    inspect(&path, "").done();
}

#[test]
fn rows_that_order_a_cannot_have_are_read_in_order_b() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows64.gguf");
    let bytes = Packing::I2sB.pack(&known(32 * 64), (32, 64), &[0.75]).unwrap();
    file_of(&path, &[("t", TensorType::I2_S, [32, 64], bytes)]);
    let ran = inspect(&path, "--verify");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let says = "tensor t: expected I2_S rows of a multiple of 128 weights, found rows of 64\n";
    assert!(ran.stderr.ends_with(says), "{ran:?}");
    let ran = inspect(&path, "--verify --i2s-layout b --json");
    let object: Value = serde_json::from_str(ran.done()).unwrap();
    let found = &object["verify"]["tensors"][0];
    assert_eq!([&found["minus"], &found["zero"], &found["plus"]], [768, 256, 1024]);
}

/// The demo model, trained and with a vocabulary.
fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.gguf")
}

/// A copy of the demo model with the codes of its I2_S tensors in order b; with or without its vocabulary.
fn in_order_b(to: &Path, vocabulary: bool) {
    let source = Gguf::open(&demo(), Access::Read).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter().filter(|(k, _)| vocabulary || !k.starts_with("tokenizer.")) {
        writer.set(key, value).unwrap();
    }
    for info in source.tensors() {
        writer.declare(&info.name, info.ty, &info.shape).unwrap();
    }
    let bytes = |info: &TensorInfo| {
        let bytes = source.bytes_of(info).unwrap();
        if info.ty != TensorType::I2_S {
            return bytes.to_owned();
        }
        let shape = (info.shape[0], info.shape[1]);
        let (mut codes, mut scales) = (vec![0; shape.0 * shape.1], vec![0.0; shape.0]);
        Packing::I2s.unpack(bytes, shape, 0..shape.0, &mut codes, &mut scales).unwrap();
        Packing::I2sB.pack(&codes, shape, &scales).unwrap()
    };
    writer
        .write_file(to, |out| source.tensors().iter().try_for_each(|t| out.tensor(&t.name, &bytes(t))))
        .unwrap();
}

#[test]
fn the_layout_test_tells_order_a_from_order_b() {
    let folder = tempfile::tempdir().unwrap();
    let b = folder.path().join("b.gguf");
    in_order_b(&b, true);
    let test = |path: &Path| -> Value {
        let ran = inspect(path, "--layout-test --json");
        serde_json::from_str::<Value>(ran.done()).unwrap()["layout_test"].clone()
    };
    let (of_a, of_b) = (test(&demo()), test(&b));
    assert_eq!((&of_a["plausible"], &of_b["plausible"]), (&json!("a"), &json!("b")), "{of_a} {of_b}");
    for i in 0..2 {
        let (text_a, text_b) = (&of_a["texts"][i], &of_b["texts"][i]);
        assert!(text_a["n_scored"].as_u64().unwrap() > 10, "{text_a}");
        // The same model, read the same way: the same losses.
        assert_eq!(text_a["loss_a"], text_b["loss_b"]);
        assert!(text_a["loss_a"] != text_a["loss_b"]);
    }
    assert!(
        inspect(&demo(), "--layout-test")
            .done()
            .ends_with("order a is plausible, by the sums: the usual one\n")
    );
    let ran = inspect(&b, "--layout-test");
    assert!(
        ran.done().ends_with("order b is plausible, by the sums: run it with --i2s-layout b\n"),
        "{ran:?}"
    );
    // Both orders are permutations of the same codes: counting cannot tell them apart.
    let census = |path: &Path, flags: &str| -> Value {
        serde_json::from_str::<Value>(inspect(path, flags).done()).unwrap()["verify"].clone()
    };
    let counted = census(&demo(), "--verify --json");
    assert_eq!(counted, census(&b, "--verify --json"));
    assert_eq!(counted, census(&b, "--verify --json --i2s-layout b"));
}

#[test]
fn the_layout_test_claims_nothing_without_grounds() {
    // Made-up weights predict nothing, in whatever order.
    let ran = on_tiny("inspect", "--layout-test");
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stdout.ends_with("neither order is plausible\n"), "{ran:?}");
    assert!(ran.stderr.starts_with("bitnet: --layout-test: neither order of I2_S codes"), "{ran:?}");
    let ran = on_tiny("inspect", "--layout-test --json");
    assert_eq!(ran.code, Some(5));
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(object["layout_test"]["plausible"], Value::Null);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mute.gguf");
    in_order_b(&path, false);
    let ran = inspect(&path, "--layout-test");
    assert_eq!(ran.refused(2), "--layout-test: the model has no vocabulary; give --tokenizer FILE");

    let path = folder.path().join("tq2_0.gguf");
    bitnet(["quantize", demo().to_str().unwrap(), path.to_str().unwrap(), "--type", "tq2_0", "-q"]).done();
    let ran = inspect(&path, "--layout-test");
    assert_eq!(ran.refused(2), "--layout-test: the model has no I2_S tensors, whose order it could tell");
    assert_eq!(inspect(&path, "--tokenizer x").refused(2), "--tokenizer: belongs to --layout-test");
    assert_eq!(inspect(&path, "--pre gpt2").refused(2), "--pre: belongs to --layout-test");
}
