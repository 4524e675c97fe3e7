//! Models rewritten in other formats: nothing is lost on the way, and what cannot be said is refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its data should stop there")]

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_core::Error;
use bitnet_core::gguf::{Access, Gguf, GgufWriter, TensorInfo, TensorType};
use bitnet_core::quant::dense::{self, DenseType};
use bitnet_core::quant::ternary::{Packing, Reading};
use bitnet_core::quant::tl_tiles::TileTable;
use bitnet_core::quantize::{QuantizeOptions, Quantized, WRITTEN, quantize};

const GOLDEN: [&str; 5] = ["b158-tiny", "b158-small", "b158-hd96", "bitnet-tiny", "llama-tiny"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/golden/{name}.gguf"))
}

fn open(path: &Path) -> Gguf {
    Gguf::open(path, Access::Read).unwrap()
}

/// Tiles for every shape of a golden model.
fn reading(name: &str, bk: usize) -> Reading {
    let gguf = open(&golden(name));
    let matrices = gguf.tensors().iter().filter(|t| t.ty == TensorType::I2_S);
    let mut shapes: Vec<&[usize]> = matrices.map(|t| &t.shape[..]).collect();
    shapes.sort_unstable();
    shapes.dedup();
    let section = |s: &&[usize]| format!("[Kernels]\nm={}\nk={}\nbm=32\nbk={bk}\nbmm=32\n", s[0], s[1]);
    let sections: Vec<String> = shapes.iter().map(section).collect();
    Reading { tiles: Some(TileTable::parse(&sections.concat()).unwrap()), ..Reading::default() }
}

fn options(ty: TensorType, reading: &Reading) -> QuantizeOptions {
    QuantizeOptions { ty, embd: None, absmean: false, reading: reading.clone() }
}

fn run(from: &Path, to: &Path, options: &QuantizeOptions) -> Result<Quantized, Error> {
    quantize(&open(from), to, options, &mut |_, _| true)
}

#[test]
fn there_and_back_is_the_same_file_where_the_scale_fits() {
    let folder = tempfile::tempdir().unwrap();
    for name in GOLDEN {
        // The copy has its metadata and filler as this writer leaves them.
        let plain = folder.path().join("plain.gguf");
        run(&golden(name), &plain, &options(TensorType::I2_S, &Reading::default())).unwrap();
        let mut at = plain.clone();
        let steps =
            [(TensorType::TL1, 64), (TensorType::IQ2_BN, 64), (TensorType::TL2, 96), (TensorType::I2_S, 96)];
        for (i, (ty, bk)) in steps.into_iter().enumerate() {
            let next = folder.path().join(format!("{name}-{i}.gguf"));
            let outcome = run(&at, &next, &options(ty, &reading(name, bk))).unwrap();
            assert_eq!((outcome.rounded, outcome.absmean, outcome.embd), (0, 0, 0), "{name} in {ty}");
            assert!(open(&next).tensors().iter().any(|t| t.ty == ty), "{name} in {ty}");
            at = next;
        }
        assert!(fs::read(&plain).unwrap() == fs::read(&at).unwrap(), "{name}");
    }
}

#[test]
fn half_precision_rounds_once_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let [once, twice, back] = ["once", "twice", "back"].map(|name| folder.path().join(name));
    let source = golden("b158-tiny");
    for ty in [TensorType::TQ1_0, TensorType::TQ2_0, TensorType::IQ1_BN] {
        let reading = Reading::default();
        let outcome = run(&source, &once, &options(ty, &reading)).unwrap();
        assert!(outcome.rounded > 0 && outcome.worst_rounding > 0.0, "{ty}: {outcome:?}");
        assert!(outcome.worst_rounding <= 1.0 / 2048.0, "{ty}: {outcome:?}");
        run(&once, &back, &options(TensorType::I2_S, &reading)).unwrap();
        let outcome = run(&back, &twice, &options(ty, &reading)).unwrap();
        assert_eq!((outcome.rounded, outcome.worst_rounding), (0, 0.0), "{ty}");
        assert!(fs::read(&once).unwrap() == fs::read(&twice).unwrap(), "{ty}");
    }
}

/// A golden model with `change` applied to the weights of one ternary matrix, which is f32 now.
fn with_dense(folder: &Path, change: impl Fn(usize, f32) -> f32) -> PathBuf {
    const NAME: &str = "blk.1.ffn_up.weight";
    let source = open(&golden("b158-tiny"));
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for t in source.tensors() {
        writer.declare(&t.name, if t.name == NAME { TensorType::F32 } else { t.ty }, &t.shape).unwrap();
    }
    let bytes = |t: &TensorInfo| {
        let bytes = source.bytes_of(t).unwrap();
        if t.name != NAME {
            return bytes.to_owned();
        }
        let (rows, cols) = (t.shape[0], t.shape[1]);
        let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows]);
        Packing::I2s.unpack(bytes, (rows, cols), 0..rows, &mut codes, &mut scales).unwrap();
        let weights: Vec<f32> =
            codes.iter().enumerate().map(|(i, code)| change(i, f32::from(*code) * scales[0])).collect();
        let mut bytes = vec![0; 4 * weights.len()];
        dense::quantize_row(DenseType::F32, &weights, &mut bytes).unwrap();
        bytes
    };
    let path = folder.join("dense.gguf");
    writer
        .write_file(&path, |out| source.tensors().iter().try_for_each(|t| out.tensor(&t.name, &bytes(t))))
        .unwrap();
    path
}

#[test]
fn dense_weights_are_taken_if_ternary_and_refused_if_not_unless_absmean() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let plain = folder.path().join("plain.gguf");
    let mut options = options(TensorType::I2_S, &Reading::default());
    run(&golden("b158-tiny"), &plain, &options).unwrap();

    let outcome = run(&with_dense(folder.path(), |_, w| w), &out, &options).unwrap();
    assert_eq!(outcome.absmean, 0);
    assert!(fs::read(&plain).unwrap() == fs::read(&out).unwrap(), "the same weights, the same file");

    let other = with_dense(folder.path(), |i, w| w + 0.001 * (i % 7) as f32);
    let error = run(&other, &out, &options).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("tensor blk.1.ffn_up.weight: its weights are not ternary: row 0, column"),
        "{text}"
    );
    assert!(fs::read(&plain).unwrap() == fs::read(&out).unwrap(), "the file there before stays");
    options.absmean = true;
    assert_eq!(run(&other, &out, &options).unwrap().absmean, 1);
}

#[test]
fn embeddings_change_only_if_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    for ty in [DenseType::F16, DenseType::Q8_0, DenseType::Q6_K] {
        let options = QuantizeOptions { embd: Some(ty), ..options(TensorType::IQ2_BN, &Reading::default()) };
        run(&golden("b158-tiny"), &out, &options).unwrap();
        let gguf = open(&out);
        let embd = gguf.tensors().iter().find(|t| t.name == "token_embd.weight").unwrap();
        assert_eq!(embd.ty.name(), ty.name());
        assert!(gguf.tensors().iter().all(|t| t.name.contains("norm") == (t.ty == TensorType::F32)));
    }
}

#[test]
fn progress_reaches_its_end_and_can_stop_it_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    fs::write(&out, "before").unwrap();
    let source = open(&golden("b158-tiny"));
    let options = options(TensorType::TQ2_0, &Reading::default());
    let mut steps = Vec::new();
    quantize(&source, &folder.path().join("all.gguf"), &options, &mut |done, total| {
        steps.push((done, total));
        true
    })
    .unwrap();
    assert!(steps.windows(2).all(|two| two[0].0 <= two[1].0), "{steps:?}");
    assert!(steps.last().is_some_and(|(done, total)| done == total), "{:?}", steps.last());
    for stop in [0, steps.len() / 2 - 1, steps.len() / 2, steps.len() - 1] {
        let mut step = 0;
        let error = quantize(&source, &out, &options, &mut |_, _| {
            step += 1;
            step <= stop
        });
        let error = error.unwrap_err();
        let interrupted = std::io::ErrorKind::Interrupted;
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == interrupted), "{error:?}");
        assert_eq!(fs::read(&out).unwrap(), b"before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "out.gguf, all.gguf, nothing between");
    }
}

#[test]
fn what_a_format_cannot_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let refused = |name: &str, ty| {
        let error = run(&golden(name), &out, &options(ty, &Reading::default())).unwrap_err();
        assert!(!out.exists());
        error.to_string()
    };
    let text = refused("b158-hd96", TensorType::TQ2_0);
    assert!(text.contains("expected TQ2_0 rows of a multiple of 256 weights, found rows of 384"), "{text}");
    let text = refused("b158-tiny", TensorType::TL1);
    assert!(text.contains("type TL1: no tile sizes are known for shape"), "{text}");
    for ty in [TensorType::IQ2_BN_R4, TensorType::F16, TensorType::Q4_K] {
        let text = refused("b158-tiny", ty);
        let list = WRITTEN.map(TensorType::name).join(", ");
        assert_eq!(text, format!("--type {ty}: expected one of {list}"));
    }
}
