//! The golden models in every ternary format: same codes, same scales, same logits, to the bit.
//!
//! Formats with an f32 scale (TL1, TL2, IQ2_BN, IQ2_BN_R4, I2_S in its other order) must give bitnet.cpp's logits.
//! TQ1_0, TQ2_0 and IQ1_BN keep the scale in half precision, which does not hold those of these models: they must
//! give the logits of an I2_S model whose scales were rounded to half precision first.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its data should stop there")]

use std::path::{Path, PathBuf};

use bitnet_core::gguf::{Access, Gguf, GgufWriter, TensorInfo, TensorType, Value};
use bitnet_core::quant::ternary::{I2sLayout, Packing, Reading};
use bitnet_core::quant::tl_tiles::TileTable;
use bitnet_core::{Error, Isa, LoadOptions, Model, Session, SessionOptions};
use half::f16;

const GOLDEN: [&str; 5] = ["b158-tiny", "b158-small", "b158-hd96", "bitnet-tiny", "llama-tiny"];

fn golden(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(format!("{name}.{extension}"))
}

/// The prompt and what bitnet.cpp generated after it.
fn tokens(name: &str) -> Vec<u32> {
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden(name, "json")).unwrap()).unwrap();
    let ids = |key: &str| json[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
    ids("prompt_tokens").chain(ids("generated")).collect()
}

/// bitnet.cpp's logits.
fn logits_of_bitnet_cpp(name: &str) -> Vec<u32> {
    let bytes = std::fs::read(golden(name, "logits.f32")).unwrap();
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The bits of every logit of every position.
fn logits(path: &Path, name: &str, reading: &Reading, isa: Isa, n_batch: usize) -> Vec<u32> {
    let options = LoadOptions { isa: Some(isa), reading: reading.clone(), ..LoadOptions::default() };
    let model = Model::load(path, &options).unwrap();
    let options = SessionOptions { n_threads: Some(2), n_batch: Some(n_batch), ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut all = Vec::new();
    session.score(&tokens(name), |_, row| all.extend(row.iter().map(|v| v.to_bits()))).unwrap();
    all
}

/// Tiles for every shape of the golden models, whatever the model.
fn tiles(gguf: &Gguf, bm: usize, bk: usize) -> TileTable {
    let mut shapes: Vec<&[usize]> =
        gguf.tensors().iter().filter(|t| t.ty == TensorType::I2_S).map(|t| &t.shape[..]).collect();
    shapes.sort_unstable();
    shapes.dedup();
    let sections: Vec<String> = shapes
        .iter()
        .map(|s| format!("[Kernels]\nm={}\nk={}\nbm={bm}\nbk={bk}\nbmm=32\n", s[0], s[1]))
        .collect();
    TileTable::parse(&sections.concat()).unwrap()
}

/// The bytes of a tensor in IQ2_BN_R4, weight by weight as the format's description has it.
fn pack_r4(codes: &[i8], rows: usize, cols: usize, scale: f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in 0..rows / 4 {
        bytes.extend([scale.to_le_bytes(); 4].concat());
        let start = bytes.len();
        bytes.resize(start + cols, 0);
        for k in 0..4 {
            for c in 0..cols {
                let (ib, l, s, i) = (c / 64, c % 64 / 16, c % 16 / 4, c % 4);
                let code = (codes[(4 * group + k) * cols + c] + 1) as u8;
                bytes[start + 64 * ib + 16 * l + 4 * k + i] |= code << (2 * s);
            }
        }
    }
    bytes
}

/// A golden model with its I2_S tensors in another format; `half`: with scales that half precision holds.
fn recast(folder: &Path, name: &str, ty: TensorType, reading: &Reading, half: bool) -> PathBuf {
    let source = Gguf::open(&golden(name, "gguf"), Access::Read).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    if ty == TensorType::TL2 {
        writer.set("general.file_type", Value::U32(39)).unwrap();
    }
    for info in source.tensors() {
        let ty = if info.ty == TensorType::I2_S { ty } else { info.ty };
        writer.declare(&info.name, ty, &info.shape).unwrap();
    }
    let path = folder.join(format!("{name}-{ty}.gguf"));
    let bytes = |info: &TensorInfo| {
        let bytes = source.bytes_of(info).unwrap();
        if info.ty != TensorType::I2_S {
            return bytes.to_owned();
        }
        let (rows, cols) = (info.shape[0], info.shape[1]);
        let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows]);
        Packing::I2s.unpack(bytes, (rows, cols), 0..rows, &mut codes, &mut scales).unwrap();
        let scale = if half { f16::from_f32(scales[0]).to_f32() } else { scales[0] };
        if ty == TensorType::IQ2_BN_R4 {
            return pack_r4(&codes, rows, cols, scale);
        }
        let packing = Packing::of(ty, rows, cols, reading).unwrap().unwrap();
        packing.pack(&codes, (rows, cols), &vec![scale; rows * packing.scales_per_row(cols)]).unwrap()
    };
    writer
        .write_file(&path, |out| source.tensors().iter().try_for_each(|t| out.tensor(&t.name, &bytes(t))))
        .unwrap();
    path
}

#[track_caller]
fn assert_bits(got: &[u32], expected: &[u32], how: &str) {
    assert_eq!(got.len(), expected.len(), "{how}");
    if let Some(at) = (0..got.len()).find(|&i| got[i] != expected[i]) {
        let [got, expected] = [got[at], expected[at]].map(f32::from_bits);
        panic!("{how}: logit {at} is {got}, expected {expected}");
    }
}

/// Every instruction set, one token at a time and many.
fn check(path: &Path, name: &str, reading: &Reading, expected: &[u32], how: &str) {
    for isa in Isa::available() {
        for n_batch in [1, 32] {
            let got = logits(path, name, reading, isa, n_batch);
            assert_bits(&got, expected, &format!("{name} in {how} on {isa}, batches of {n_batch}"));
        }
    }
}

#[test]
fn formats_that_hold_the_scale_give_bitnet_cpps_logits() {
    let folder = tempfile::tempdir().unwrap();
    for name in GOLDEN {
        let expected = logits_of_bitnet_cpp(name);
        let gguf = Gguf::open(&golden(name, "gguf"), Access::Map).unwrap();
        let tl = |bk| Reading { tiles: Some(tiles(&gguf, 32, bk)), ..Reading::default() };
        let layout_b = Reading { i2s: I2sLayout::B, ..Reading::default() };
        for (ty, reading) in [
            (TensorType::TL1, tl(64)),
            (TensorType::TL2, tl(96)),
            (TensorType::IQ2_BN, Reading::default()),
            (TensorType::IQ2_BN_R4, Reading::default()),
            (TensorType::I2_S, layout_b),
        ] {
            let path = recast(folder.path(), name, ty, &reading, false);
            check(&path, name, &reading, &expected, ty.name());
        }
    }
}

#[test]
fn formats_with_half_precision_scales_give_the_logits_of_those_scales() {
    let folder = tempfile::tempdir().unwrap();
    let reading = Reading::default();
    for name in GOLDEN {
        let rounded = recast(folder.path(), name, TensorType::I2_S, &reading, true);
        let expected = logits(&rounded, name, &reading, Isa::Scalar, 32);
        let differ = expected.iter().zip(logits_of_bitnet_cpp(name)).filter(|(a, b)| *a != b).count();
        assert!(
            differ > 0,
            "{name}: its scales are exact in half precision: the other test should have these formats"
        );
        let mut types = vec![TensorType::IQ1_BN];
        if name != "b158-hd96" {
            types.extend([TensorType::TQ1_0, TensorType::TQ2_0]); // rows of 384 are no whole blocks of 256
        }
        for ty in types {
            let path = recast(folder.path(), name, ty, &reading, true);
            check(&path, name, &reading, &expected, ty.name());
        }
    }
}

#[test]
fn the_wrong_order_or_tiles_are_another_model_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let (name, usual) = ("b158-tiny", Reading::default());
    let layout_b = Reading { i2s: I2sLayout::B, ..Reading::default() };
    let got = logits(&golden(name, "gguf"), name, &layout_b, Isa::Scalar, 32);
    assert!(got != logits_of_bitnet_cpp(name));
    let gguf = Gguf::open(&golden(name, "gguf"), Access::Map).unwrap();
    let [low, high] = [32, 64].map(|bm| Reading { tiles: Some(tiles(&gguf, bm, 64)), ..Reading::default() });
    let path = recast(folder.path(), name, TensorType::TL1, &low, false);
    assert!(logits(&path, name, &high, Isa::Scalar, 32) != logits_of_bitnet_cpp(name));

    // These shapes are no public model's: without sizes there is nothing to read them by.
    let options = LoadOptions { reading: usual, ..LoadOptions::default() };
    let error = Model::load(&path, &options).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("tensor blk.0.attn_q.weight: type TL1: no tile sizes are known for shape"),
        "{text}"
    );
    assert!(text.ends_with("--tl-config FILE can state them"), "{text}");
}

/// A golden model in which one tensor has another type, filled with zeros.
fn with_type(folder: &Path, tensor: &str, ty: TensorType) -> PathBuf {
    let source = Gguf::open(&golden("b158-tiny", "gguf"), Access::Read).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for info in source.tensors() {
        writer.declare(&info.name, if info.name == tensor { ty } else { info.ty }, &info.shape).unwrap();
    }
    let path = folder.join("other.gguf");
    let bytes = |info: &TensorInfo| match info.name == tensor {
        true => vec![0; ty.n_bytes(&info.shape).unwrap() as usize],
        false => source.bytes_of(info).unwrap().to_owned(),
    };
    writer
        .write_file(&path, |out| source.tensors().iter().try_for_each(|t| out.tensor(&t.name, &bytes(t))))
        .unwrap();
    path
}

#[test]
fn what_is_not_run_is_refused_by_name_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for ty in [TensorType::IQ2_XXS, TensorType::IQ4_XS, TensorType::Q8_K, TensorType::Q6_0, TensorType::I8] {
        let path = with_type(folder.path(), "blk.1.ffn_up.weight", ty);
        let error = Model::load(&path, &LoadOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        let text = error.to_string();
        let says = format!(
            "tensor blk.1.ffn_up.weight: type {ty} (id {}) is not one this engine runs; it runs",
            ty.id()
        );
        assert!(text.contains(&says) && text.contains("TQ2_0") && text.contains("IQ4_NL"), "{text}");
        assert!(text.ends_with("convert the model to one of them"), "{text}");
    }
    // Ternary embeddings are a known mistake of converters.
    let path = with_type(folder.path(), "token_embd.weight", TensorType::IQ2_BN);
    let text = Model::load(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(text.contains("token_embd.weight: embeddings cannot be ternary"), "{text}");
}
