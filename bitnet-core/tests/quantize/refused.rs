//! What no file is written for.

use bitnet_core::gguf::TensorType;
use bitnet_core::quant::dense::DenseType;
use bitnet_core::quant::ternary::Reading;
use bitnet_core::quantize::{QuantizeOptions, WRITTEN, quantize};
use bitnet_core::{LoadOptions, Model};

use super::{Owned, golden, open, options, run, save, tensors, ternary};

#[test]
fn ternary_tensors_that_are_no_matrices_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    for (name, shape) in [
        ("blk.0.attn_norm.weight", vec![256]),
        ("blk.1.ffn_up.weight", vec![2, 3, 128]),
        ("blk.1.ffn_up_exps.weight", vec![2, 3, 128]),
    ] {
        let mut tensors = tensors(&open(&golden("b158-tiny")));
        let n: usize = shape.iter().product();
        tensors.retain(|t| t.name != name);
        let (ty, bytes) = (TensorType::I2_S, ternary(1, n));
        tensors.push(Owned { name: name.into(), ty, shape: shape.clone(), bytes });
        save(&path, "b158-tiny", &tensors);
        let text = run(&path, &out, &options(TensorType::I2_S, &Reading::default())).unwrap_err().to_string();
        let says = format!("in.gguf: tensor {name}: expected a matrix, found shape {shape:?} of type I2_S");
        assert!(text.ends_with(&says), "{text}");
        assert!(!out.exists());
    }
}

#[test]
fn a_ternary_head_is_not_made_dense() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let mut tensors = tensors(&open(&golden("llama-tiny")));
    let output = tensors.iter_mut().find(|t| t.name == "output.weight").unwrap();
    (output.ty, output.bytes) = (TensorType::I2_S, ternary(output.shape[0], output.shape[1]));
    save(&path, "llama-tiny", &tensors);
    let options =
        QuantizeOptions { embd: Some(DenseType::F16), ..options(TensorType::IQ2_BN, &Reading::default()) };
    let text = run(&path, &out, &options).unwrap_err().to_string();
    assert!(
        text.contains(
            "tensor output.weight: type I2_S is ternary, which --embd does not convert; without it"
        ),
        "{text}"
    );
    assert!(!out.exists());
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
    let path = folder.path().join("in.gguf");
    for (name, ty) in [
        ("blk.1.ffn_up.weight", TensorType::MXFP4),
        ("blk.1.ffn_up.weight", TensorType::IQ4_XS),
        ("output.weight", TensorType::MXFP4),
    ] {
        let mut tensors = tensors(&open(&golden("llama-tiny")));
        let t = tensors.iter_mut().find(|t| t.name == name).unwrap();
        (t.ty, t.bytes) = (ty, vec![0; ty.n_bytes(&t.shape).unwrap() as usize]);
        save(&path, "llama-tiny", &tensors);
        let options =
            QuantizeOptions { embd: Some(DenseType::F16), ..options(TensorType::I2_S, &Reading::default()) };
        let text = run(&path, &out, &options).unwrap_err().to_string();
        let says = match ty {
            TensorType::MXFP4 => {
                "type MXFP4 (id 39, which is TL2 only where general.architecture begins with bitnet \
                                  or general.file_type is 39) is not one this engine runs; it runs I2_S, "
            }
            _ => "type IQ4_XS (id 23) is not one this engine runs; it runs I2_S, ",
        };
        assert!(text.contains(&format!("in.gguf: tensor {name}: {says}")), "{text}");
        assert!(text.ends_with(": convert the model to one of them"), "{text}");
        assert!(!out.exists());
    }
    for ty in [TensorType::IQ2_BN_R4, TensorType::F16, TensorType::Q4_K] {
        let text = refused("b158-tiny", ty);
        let list = WRITTEN.map(TensorType::name).join(", ");
        assert_eq!(text, format!("--type {ty}: expected one of {list}"));
    }
}

#[test]
fn what_would_not_run_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let scale = Owned {
        name: "blk.0.attn_q.scale".into(),
        ty: TensorType::F32,
        shape: vec![1],
        bytes: 2f32.to_le_bytes().to_vec(),
    };
    let mut scaled = tensors(&open(&golden("b158-tiny")));
    scaled.push(scale);
    let mut embedded = tensors(&open(&golden("b158-tiny")));
    let embd = embedded.iter_mut().find(|t| t.name == "token_embd.weight").unwrap();
    (embd.ty, embd.bytes) = (TensorType::I2_S, ternary(embd.shape[0], embd.shape[1]));
    for (tensors, says) in [
        (
            scaled,
            "tensor blk.0.attn_q.scale: type F32 holds a scale outside its matrix, as files from before I2_S do, \
             and this engine does not multiply by it: convert the model's checkpoint again",
        ),
        (
            embedded,
            "tensor token_embd.weight: embeddings cannot be ternary, and these are I2_S: convert the model with them \
             in F16, Q8_0 or Q6_K",
        ),
    ] {
        save(&path, "b158-tiny", &tensors);
        let mut steps = 0;
        let quantized =
            quantize(&open(&path), &out, &options(TensorType::I2_S, &Reading::default()), &mut |_, _| {
                steps += 1;
                true
            });
        assert!(quantized.unwrap_err().to_string().ends_with(says));
        assert_eq!((steps, out.exists()), (0, false), "refused before anything is written");
        let error = Model::load(&path, &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.ends_with(says), "{error}");
    }
}
