//! Models rewritten in other formats: nothing is lost on the way, and what cannot be said is refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its data should stop there")]

mod pairs;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_core::Error;
use bitnet_core::gguf::{Access, Gguf, GgufWriter, TensorInfo, TensorType};
use bitnet_core::quant::dense::{self, DenseType};
use bitnet_core::quant::i2s_layouts::a_to_b;
use bitnet_core::quant::ternary::{I2sLayout, Packing, Reading};
use bitnet_core::quant::tl_tiles::TileTable;
use bitnet_core::quantize::{QuantizeOptions, Quantized, quantize};

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

/// A tensor in memory, to be changed and written again.
struct Owned {
    name: String,
    ty: TensorType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tensors(gguf: &Gguf) -> Vec<Owned> {
    let owned = |t: &TensorInfo| Owned {
        name: t.name.clone(),
        ty: t.ty,
        shape: t.shape.clone(),
        bytes: gguf.bytes_of(t).unwrap().to_owned(),
    };
    gguf.tensors().iter().map(owned).collect()
}

/// Writes these tensors with the metadata of golden model `name`.
fn save(path: &Path, name: &str, tensors: &[Owned]) {
    let mut writer = GgufWriter::new();
    for (key, value) in open(&golden(name)).metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for t in tensors {
        writer.declare(&t.name, t.ty, &t.shape).unwrap();
    }
    writer.write_file(path, |out| tensors.iter().try_for_each(|t| out.tensor(&t.name, &t.bytes))).unwrap();
}

/// A golden model with `change` applied to the weights of one ternary matrix, which is f32 now.
fn with_dense(folder: &Path, change: impl Fn(usize, f32) -> f32) -> PathBuf {
    let mut tensors = tensors(&open(&golden("b158-tiny")));
    let t = tensors.iter_mut().find(|t| t.name == "blk.1.ffn_up.weight").unwrap();
    let (rows, cols) = (t.shape[0], t.shape[1]);
    let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows]);
    Packing::I2s.unpack(&t.bytes, (rows, cols), 0..rows, &mut codes, &mut scales).unwrap();
    let weights: Vec<f32> =
        codes.iter().enumerate().map(|(i, code)| change(i, f32::from(*code) * scales[0])).collect();
    (t.ty, t.bytes) = (TensorType::F32, vec![0; 4 * weights.len()]);
    dense::quantize_row(DenseType::F32, &weights, &mut t.bytes).unwrap();
    let path = folder.join("dense.gguf");
    save(&path, "b158-tiny", &tensors);
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

/// Two files of the same model: codes of I2_S in the usual order, and in the other one.
fn both_orders(folder: &Path, name: &str, mut tensors: Vec<Owned>) -> [PathBuf; 2] {
    let paths = ["a", "b"].map(|order| folder.join(format!("{name}-{order}.gguf")));
    save(&paths[0], name, &tensors);
    for t in tensors.iter_mut().filter(|t| t.ty == TensorType::I2_S) {
        let n = t.bytes.len() - 32;
        a_to_b(&mut t.bytes[..n]);
    }
    save(&paths[1], name, &tensors);
    paths
}

/// `[rows, cols]` weights in I2_S.
fn ternary(rows: usize, cols: usize) -> Vec<u8> {
    let codes: Vec<i8> = (0..rows * cols).map(|i| (i * 7 % 11 % 3) as i8 - 1).collect();
    Packing::I2s.pack(&codes, (rows, cols), &[0.5]).unwrap()
}

#[test]
fn nothing_stays_in_the_other_order() {
    let folder = tempfile::tempdir().unwrap();
    let [from_a, from_b] = ["from-a", "from-b"].map(|name| folder.path().join(name));
    let other = Reading { i2s: I2sLayout::B, ..Reading::default() };

    let mut head = tensors(&open(&golden("llama-tiny")));
    let output = head.iter_mut().find(|t| t.name == "output.weight").unwrap();
    (output.ty, output.bytes) = (TensorType::I2_S, ternary(output.shape[0], output.shape[1]));
    let mut deep = tensors(&open(&golden("b158-tiny")));
    deep.iter_mut().filter(|t| t.ty == TensorType::I2_S).for_each(|t| t.shape.insert(0, 1));

    for (name, tensors, n) in [("llama-tiny", head, 15), ("b158-tiny", deep, 14)] {
        let [a, b] = both_orders(folder.path(), name, tensors);
        for ty in [TensorType::I2_S, TensorType::IQ2_BN] {
            let outcome = run(&a, &from_a, &options(ty, &Reading::default())).unwrap();
            assert_eq!(outcome.ternary, n, "{name} to {ty}");
            assert_eq!(run(&b, &from_b, &options(ty, &other)).unwrap(), outcome, "{name} to {ty}");
            assert!(fs::read(&from_a).unwrap() == fs::read(&from_b).unwrap(), "{name} to {ty}");
            let (source, written) = (open(&a), open(&from_a));
            for (before, after) in source.tensors().iter().zip(written.tensors()) {
                let expected = if before.ty == TensorType::I2_S { ty } else { before.ty };
                assert_eq!((after.ty, &after.shape), (expected, &before.shape), "{name}: {}", after.name);
                let (before, after) = (source.bytes_of(before).unwrap(), written.bytes_of(after).unwrap());
                assert!(ty != TensorType::I2_S || before == after, "{name}: a weight changed");
            }
        }
    }
}
