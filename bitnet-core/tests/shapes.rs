//! Shapes and types that the golden models lack: every instruction set, batch split and thread count gives the bits of
//! the scalar engine on one thread, taking all tokens at once.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its model should stop there")]

use std::path::{Path, PathBuf};

use bitnet_core::gguf::{Access, Gguf, GgufWriter};
use bitnet_core::kernels::values::ROW;
use bitnet_core::quant::dense::{DenseType, quantize_row};
use bitnet_core::synth::{SynthOptions, SynthShape, write_synthetic};
use bitnet_core::{Isa, LoadOptions, Model, Placement, Session, SessionOptions};

/// More positions than attention takes at a time (32), and a multiple of none of the batches below.
const N_TOKENS: usize = 37;
const N_VOCAB: usize = 260;

/// A model of one layer, on the disk for as long as the folder is.
fn synthesized(folder: &tempfile::TempDir, shape: SynthShape, arch: &str) -> PathBuf {
    let path = folder.path().join("model.gguf");
    let mut options = SynthOptions::new(shape);
    options.arch = arch.into();
    (options.n_layer, options.n_vocab, options.n_ctx) = (Some(1), Some(N_VOCAB), Some(2 * ROW + 64));
    write_synthetic(&path, &options, &mut |_, _| true).unwrap();
    path
}

/// The same model with matrix `name` stored as `ty`.
fn with_dense(folder: &tempfile::TempDir, model: &Path, name: &str, ty: DenseType) -> PathBuf {
    let source = Gguf::open(model, Access::Map).unwrap();
    assert!(source.tensor(name).is_some(), "no tensor {name} to replace");
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    let new = ty.tensor_type();
    for info in source.tensors() {
        writer.declare(&info.name, if info.name == name { new } else { info.ty }, &info.shape).unwrap();
    }
    let path = folder.path().join("dense.gguf");
    writer
        .write_file(&path, |out| {
            source.tensors().iter().try_for_each(|info| match info.name == name {
                true => out.tensor(name, &made_up(ty, info.shape.iter().product())),
                false => out.tensor(&info.name, source.bytes_of(info).unwrap()),
            })
        })
        .unwrap();
    path
}

/// The bytes of `n` weights of no particular meaning.
fn made_up(ty: DenseType, n: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut bytes = vec![0; ty.row_bytes(n).unwrap()];
    if ty.can_quantize() {
        let weights: Vec<f32> = (0..n).map(|_| random() as f32 / (1 << 24) as f32 - 0.5).collect();
        quantize_row(ty, &weights, &mut bytes).unwrap();
        return bytes;
    }
    // Where a block has its half-precision numbers; the rest of it may hold anything.
    let halves: &[usize] = match ty {
        DenseType::Q4_0 | DenseType::Q5_0 | DenseType::IQ4_NL => &[0],
        DenseType::Q4_1 | DenseType::Q5_1 | DenseType::Q4_K | DenseType::Q5_K => &[0, 2],
        DenseType::Q2_K => &[80, 82],
        DenseType::Q3_K => &[108],
        other => panic!("{other} can be written"),
    };
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        block.fill_with(|| random() as u8);
        halves.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&[0, 0x1c])); // 2^-8
    }
    bytes
}

/// What is left unread, rows of `up` and columns of `down`, changes no bit, whoever shares the work.
#[test]
fn what_cannot_matter_is_skipped_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = synthesized(&folder, SynthShape::Small, "bitnet-b1.58");
    let load = |isa, placement| {
        Model::load(&path, &LoadOptions { isa: Some(isa), placement, ..LoadOptions::default() }).unwrap()
    };
    let expected = logits(&load(Isa::Scalar, Placement::Map), N_TOKENS, 1, N_TOKENS);
    let mut skipped = [0; 3]; // where the file has them, four to a byte, five to a byte
    for isa in Isa::available() {
        for (i, placement) in [Placement::Map, Placement::Copy, Placement::Tri5].into_iter().enumerate() {
            let model = load(isa, placement);
            for n_threads in 1..=3 {
                let options = SessionOptions { n_threads: Some(n_threads), ..SessionOptions::default() };
                let mut session = Session::new(&model, &options).unwrap();
                for (t, (token, expected)) in tokens(N_TOKENS).zip(expected.chunks_exact(N_VOCAB)).enumerate()
                {
                    let found = session.decode(token).unwrap();
                    let same = found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{isa}, {placement:?}, {n_threads} threads, position {t}");
                }
                assert_eq!(session.skipped().n_steps, N_TOKENS as u64);
                skipped[i] = session.skipped().n_bytes;

                // A prompt is no step of one token, though the last block has only one to finish.
                let before = session.skipped();
                session.clear();
                session.prefill(&tokens(N_TOKENS).collect::<Vec<_>>()).unwrap();
                assert_eq!(session.skipped(), before);
            }
        }
    }
    assert!(skipped[0] > 0, "rows of `up` are skipped without copies");
    assert!(skipped[1] > skipped[0], "columns of `down` are skipped with them: {skipped:?}");
    assert!(skipped[2] > 0, "{skipped:?}");
}

/// A file may align its tensors to a single byte: the values are the same, and so are the rules they are multiplied by.
#[test]
fn values_at_odd_addresses_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = synthesized(&folder, SynthShape::Small, "bitnet-b1.58");
    let expected = logits(&load(&path, Isa::Scalar), 5, 1, 5);
    let file = std::fs::read(&path).unwrap();
    let mut shifted = vec![0; file.len() + 64];
    let odd = (64 - shifted.as_ptr().addr() % 64) % 64 + 1;
    shifted[odd..odd + file.len()].copy_from_slice(&file);
    let shifted: &'static [u8] = Vec::leak(shifted);
    for isa in Isa::available() {
        let gguf = Gguf::from_static("shifted", &shifted[odd..odd + file.len()]).unwrap();
        let model =
            Model::from_gguf(gguf, &LoadOptions { isa: Some(isa), ..LoadOptions::default() }).unwrap();
        let found = logits(&model, 5, 2, 3);
        assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}");
    }
}

/// Logits of every position, `[n_tokens, N_VOCAB]`.
fn logits(model: &Model, n_tokens: usize, n_threads: usize, n_batch: usize) -> Vec<f32> {
    let options =
        SessionOptions { n_threads: Some(n_threads), n_batch: Some(n_batch), ..SessionOptions::default() };
    let mut session = Session::new(model, &options).unwrap();
    let tokens: Vec<u32> = tokens(n_tokens).collect();
    let mut all = Vec::with_capacity(n_tokens * N_VOCAB);
    session.score(&tokens, |_, row| all.extend_from_slice(row)).unwrap();
    all
}

/// A text of no particular meaning.
fn tokens(n: usize) -> impl Iterator<Item = u32> {
    (0..n as u32).map(|i| (i * 89 + 7) % N_VOCAB as u32)
}

fn load(path: &Path, isa: Isa) -> Model {
    Model::load(path, &LoadOptions { isa: Some(isa), ..LoadOptions::default() }).unwrap()
}

/// Equal bits for every instruction set, and for `splits` of threads and batches.
#[track_caller]
fn check(path: &Path, splits: &[(usize, usize)]) {
    check_tokens(path, N_TOKENS, splits);
}

/// The same for a text of `n_tokens`.
#[track_caller]
fn check_tokens(path: &Path, n_tokens: usize, splits: &[(usize, usize)]) {
    let expected = logits(&load(path, Isa::Scalar), n_tokens, 1, n_tokens);
    let (first, last) = (&expected[..N_VOCAB], &expected[expected.len() - N_VOCAB..]);
    assert!(expected.iter().all(|v| v.is_finite()) && first != last, "logits that say nothing prove nothing");
    for isa in Isa::available() {
        let model = load(path, isa);
        for &(n_threads, n_batch) in splits {
            let got = logits(&model, n_tokens, n_threads, n_batch);
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!(
                    got.to_bits() == expected.to_bits(),
                    "{isa}, {n_threads} threads, batches of {n_batch}: position {}, token {}: {got} is not {expected}",
                    i / N_VOCAB,
                    i % N_VOCAB
                );
            }
            assert_eq!(got.len(), expected.len());
        }
    }
}

const SPLITS: &[(usize, usize)] = &[(1, 1), (1, 7), (2, 1), (2, 32), (3, 5), (3, N_TOKENS)];
/// One token at a time, and odd batches.
const FEW: &[(usize, usize)] = &[(3, 1), (2, 7)];

#[test]
fn heads_of_100_and_rows_of_3200() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesized(&folder, SynthShape::Hd100, "bitnet-b1.58");
    check(&model, FEW); // 53 million weights are many for a definition that takes them one at a time
}

#[test]
fn one_head_of_96_for_all_queries_and_rows_of_384() {
    let folder = tempfile::tempdir().unwrap();
    for arch in ["bitnet-b1.58", "bitnet-25", "bitnet", "llama"] {
        check(&synthesized(&folder, SynthShape::Hd96, arch), SPLITS);
    }
}

#[test]
fn a_text_longer_than_two_rows_of_values_in_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesized(&folder, SynthShape::Tiny, "bitnet-b1.58");
    check_tokens(&model, 2 * ROW + 5, &[(1, 1), (2, 100), (3, 2 * ROW + 5)]);
}

#[test]
fn embeddings_of_every_dense_type_this_engine_runs() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesized(&folder, SynthShape::Tiny, "bitnet-b1.58");
    for ty in DenseType::ALL {
        check(&with_dense(&folder, &model, "token_embd.weight", ty), FEW);
    }
}

#[test]
fn a_dense_matrix_among_ternary_ones() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesized(&folder, SynthShape::Tiny, "bitnet-b1.58");
    for ty in DenseType::ALL {
        // One that shares its activations with ternary matrices, and one that reads its own.
        for name in ["blk.0.attn_k.weight", "blk.0.ffn_down.weight"] {
            check(&with_dense(&folder, &model, name, ty), FEW);
        }
    }
    // So many tokens that threads share them, where a kernel is for that.
    for ty in [DenseType::F32, DenseType::F16, DenseType::Q8_0] {
        for name in ["blk.0.attn_k.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"] {
            check_tokens(&with_dense(&folder, &model, name, ty), 70, &[(3, 70)]);
        }
    }
    // What is multiplied and what lets it through, for either function between them.
    for arch in ["bitnet-b1.58", "llama"] {
        let model = synthesized(&folder, SynthShape::Tiny, arch);
        for name in ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"] {
            check(&with_dense(&folder, &model, name, DenseType::F16), FEW);
        }
    }
}

#[test]
fn a_head_of_its_own_in_another_type_than_the_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesized(&folder, SynthShape::Hd96, "llama");
    for ty in [DenseType::F32, DenseType::F16, DenseType::Q8_0, DenseType::Q4_0, DenseType::IQ4_NL] {
        check(&with_dense(&folder, &model, "output.weight", ty), SPLITS);
    }
    // Blocks of 256, which rows of 384 are not.
    let model = synthesized(&folder, SynthShape::Tiny, "llama");
    check(&with_dense(&folder, &model, "output.weight", DenseType::Q6_K), SPLITS);
}

/// A value that no f16 can hold becomes infinite, and makes no earlier position of its batch infinite or NaN.
#[test]
fn values_that_overflow_stay_out_of_earlier_positions() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesized(&folder, SynthShape::Tiny, "bitnet-b1.58");
    let model = with_dense(&folder, &model, "blk.0.attn_v.weight", DenseType::F32);
    let file = Gguf::open(&model, Access::Map).unwrap();
    let bytes = file.tensor("blk.0.attn_v.weight").unwrap().bytes.to_vec();
    let whole = std::fs::read(&model).unwrap();
    let at = whole.windows(bytes.len()).position(|w| w == bytes).unwrap();
    drop(file);
    // From no value too large to all of them: in between, some positions overflow and earlier ones do not. Were a later
    // value not left out, a scale of some thousands would differ.
    let scales: Vec<f32> = (0..40).map(|i| 100.0 * 1.25_f32.powi(i)).collect();
    for scale in scales {
        let mut whole = whole.clone();
        for w in whole[at..at + bytes.len()].as_chunks_mut::<4>().0 {
            *w = (f32::from_le_bytes(*w) * scale).to_le_bytes();
        }
        let path = folder.path().join("loud.gguf");
        std::fs::write(&path, whole).unwrap();
        let expected = logits(&load(&path, Isa::Scalar), N_TOKENS, 1, 1);
        for isa in Isa::available() {
            let got = logits(&load(&path, isa), N_TOKENS, 2, N_TOKENS);
            // A NaN is a NaN: which one is not defined.
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            let differs = got.iter().zip(&expected).position(|(&a, &b)| !same(a, b));
            assert_eq!(differs.map(|i| i / N_VOCAB), None, "the position that differs: {isa}, scale {scale}");
        }
    }
}
