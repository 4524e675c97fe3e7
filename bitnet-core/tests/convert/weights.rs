//! What becomes of single tensors.

use bitnet_core::gguf::{Gguf, TensorType};
use bitnet_core::hf::{Checkpoint as Converter, ConvertOptions};
use bitnet_core::quant::dense::{self, DenseType};
use bitnet_core::quant::iq_bn::unpack_iq2_bn;
use serde_json::json;

use super::checkpoint::{Checkpoint, Float, tiny};
use super::{Random, convert, convert_with, refusal};

const Q: &str = "model.layers.0.self_attn.q_proj";

fn f32s(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    assert_eq!(tensor.info.ty, TensorType::F32);
    tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The scale of an I2_S tensor.
fn scale(gguf: &Gguf, name: &str) -> f32 {
    let tensor = gguf.tensor(name).unwrap();
    assert_eq!(tensor.info.ty, TensorType::I2_S);
    f32::from_le_bytes(tensor.bytes[tensor.bytes.len() - 32..][..4].try_into().unwrap())
}

/// The same model as a Llama: no norms within, another activation.
fn tiny_llama(quantization: serde_json::Value) -> Checkpoint {
    let mut c = tiny(16);
    c.tensors.retain(|name, _| !name.contains("sub_norm"));
    c.config["model_type"] = json!("llama");
    c.config["architectures"] = json!(["LlamaForCausalLM"]);
    c.config["hidden_act"] = json!("silu");
    c.config["quantization_config"] = quantization;
    c
}

#[test]
fn the_class_of_the_layers_says_which_way_the_scale_goes() {
    for (class, expected) in
        [(json!("autobitlinear"), 0.3f32), (json!("bitlinear"), 1.0 / 0.3), (json!(null), 1.0 / 0.3)]
    {
        let mut c = tiny(16);
        c.config["quantization_config"]["linear_class"] = class.clone();
        c.floats(&format!("{Q}.weight_scale"), Float::F32, &[1], &[0.3]);
        let dir = c.write(1);
        let gguf = convert(dir.path()).unwrap();
        assert_eq!(scale(&gguf, "blk.0.attn_q.weight"), expected, "{class}");
    }
}

/// The scale in `weight_scale` may be bf16, and a number without dimensions.
#[test]
fn scales_of_any_float_format_are_read() {
    let mut c = tiny(16);
    c.floats(&format!("{Q}.weight_scale"), Float::Bf16, &[], &[1.2109375]);
    let dir = c.write(1);
    assert_eq!(scale(&convert(dir.path()).unwrap(), "blk.0.attn_q.weight"), 1.2109375);
}

#[test]
fn scales_that_are_none_are_refused() {
    for bad in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let mut c = tiny(16);
        c.floats(&format!("{Q}.weight_scale"), Float::F32, &[1], &[bad]);
        let found = refusal(c.write(1).path());
        let item =
            format!("model.safetensors: tensor {Q}.weight_scale: expected a finite number above 0, found");
        assert!(found.starts_with(&item), "{found}");
    }
    let mut c = tiny(16);
    c.config["quantization_config"]["linear_class"] = json!("bitlinear");
    c.floats(&format!("{Q}.weight_scale"), Float::F32, &[1], &[1e-39]); // its inverse is no f32
    assert!(refusal(c.write(1).path()).contains("expected a finite number above 0"));
}

/// bitnet_b1_58-3B has rows of 8640: no whole blocks of I2_S.
#[test]
fn rows_that_i2s_cannot_hold_keep_their_codes_and_scale_in_another_format() {
    let mut c = tiny(16);
    let n_ff = 192;
    c.config["intermediate_size"] = json!(n_ff);
    let codes = Random(3).codes(128 * n_ff);
    c.packed("model.layers.0.mlp.down_proj", [128, n_ff], &codes, 0.3);
    for name in ["gate_proj", "up_proj"] {
        c.packed(&format!("model.layers.0.mlp.{name}"), [n_ff, 128], &codes, 0.7);
    }
    c.floats("model.layers.0.mlp.ffn_sub_norm.weight", Float::F32, &[n_ff], &vec![1.0; n_ff]);
    let dir = c.write(1);
    let gguf = convert(dir.path()).unwrap();
    let tensor = gguf.tensor("blk.0.ffn_down.weight").unwrap();
    assert_eq!(tensor.info.ty, TensorType::IQ2_BN);
    let (mut found, mut scales) = (vec![9; codes.len()], vec![0.0; 128]);
    unpack_iq2_bn(tensor.bytes, 128, n_ff, 0..128, &mut found, &mut scales).unwrap();
    assert!(found == codes && scales.iter().all(|scale| *scale == 0.3));
    assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().info.ty, TensorType::I2_S);
}

#[test]
fn floats_that_are_ternary_already_are_taken_as_they_are() {
    let mut c = tiny_llama(json!({"quant_method": "bitnet"}));
    let codes = Random(5).codes(128 * 128);
    let weights: Vec<f32> = codes.iter().map(|code| f32::from(*code) * 0.375).collect();
    c.tensors.remove(&format!("{Q}.weight_scale"));
    c.floats(&format!("{Q}.weight"), Float::Bf16, &[128, 128], &weights);
    let dir = c.write(1);
    assert_eq!(scale(&convert(dir.path()).unwrap(), "blk.0.attn_q.weight"), 0.375);
}

#[test]
fn floats_that_are_not_ternary_are_rounded_only_on_request() {
    let mut c = tiny_llama(json!({"quant_method": "bitnet"}));
    let mut random = Random(5);
    let weights: Vec<f32> = (0..128 * 128).map(|_| random.unit() - 0.5).collect();
    c.tensors.remove(&format!("{Q}.weight_scale"));
    c.floats(&format!("{Q}.weight"), Float::F32, &[128, 128], &weights);
    let dir = c.write(1);
    let found = refusal(dir.path());
    assert!(
        found.starts_with(&format!("model.safetensors: tensor {Q}.weight, row 0, column 1: ")),
        "{found}"
    );
    assert!(found.contains("--absmean rounds"), "{found}");
    let options = ConvertOptions { absmean: true, ..ConvertOptions::default() };
    let gguf = convert_with(dir.path(), &options).unwrap();
    let mean = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
    assert_eq!(scale(&gguf, "blk.0.attn_q.weight"), 1.0 / (1.0 / mean as f32));
}

#[test]
fn embeddings_take_the_format_asked_for() {
    let mut c = tiny(16);
    c.config["hidden_size"] = json!(128);
    let dir = c.write(1);
    let exact: Vec<f32> = {
        let bytes = &c.tensors["model.embed_tokens.weight"].bytes;
        let mut values = vec![0.0; bytes.len() / 2];
        dense::dequantize_row(DenseType::BF16, bytes, &mut values);
        values
    };
    for (embd, largest_error) in
        [(DenseType::F32, 0.0), (DenseType::BF16, 0.0), (DenseType::F16, 0.0), (DenseType::Q8_0, 0.5 / 254.0)]
    {
        let gguf = convert_with(dir.path(), &ConvertOptions { embd, ..ConvertOptions::default() }).unwrap();
        let tensor = gguf.tensor("token_embd.weight").unwrap();
        assert_eq!(tensor.info.ty, embd.tensor_type());
        let mut found = vec![0.0; exact.len()];
        dense::dequantize_row(embd, tensor.bytes, &mut found);
        let error = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= largest_error + 1e-4 * f32::from(embd == DenseType::Q8_0), "{embd}: {error}");
    }
    let options = ConvertOptions { embd: DenseType::Q6_K, ..ConvertOptions::default() };
    let refused = convert_with(dir.path(), &options).unwrap_err().to_string();
    assert_eq!(
        refused,
        "--embd q6_k: expected rows of a multiple of 256 values, found rows of 128; f16 takes any"
    );
    let options = ConvertOptions { embd: DenseType::Q4_0, ..ConvertOptions::default() };
    assert!(convert_with(dir.path(), &options).unwrap_err().is_misuse());
}

/// Expected values from transformers' own function, as default frequency over scaled one.
#[test]
fn llama3_scaling_becomes_a_tensor_of_factors() {
    let mut c = tiny_llama(json!({"quant_method": "bitnet"}));
    c.config["num_attention_heads"] = json!(1);
    c.config["rope_theta"] = json!(500_000.0);
    c.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    for name in ["k_proj", "v_proj"] {
        c.packed(&format!("model.layers.0.self_attn.{name}"), [128, 128], &vec![0; 128 * 128], 1.0);
    }
    let dir = c.write(1);
    let factors = f32s(&convert(dir.path()).unwrap(), "rope_freqs.weight");
    assert_eq!(factors.len(), 64);
    for (i, expected) in [
        (0, 1.0),
        (28, 1.0),
        (29, 1.207_483_9),
        (30, 1.553_414_6),
        (31, 2.026_313),
        (32, 2.694_530_2),
        (33, 3.684_253_5),
        (34, 5.257_327),
        (35, 8.0),
        (63, 8.0),
    ] {
        assert!((factors[i] - expected).abs() <= expected * 1e-5, "{i}: {} is not {expected}", factors[i]);
    }
}

#[test]
fn tensors_without_a_place_are_refused_but_for_leftovers() {
    let mut c = tiny(16);
    c.floats("model.layers.0.self_attn.rotary_emb.inv_freq", Float::F32, &[32], &[1.0; 32]);
    convert(c.write(1).path()).unwrap();
    c.floats("model.layers.0.self_attn.q_proj.bias", Float::F32, &[128], &[0.0; 128]);
    assert_eq!(
        refusal(c.write(1).path()),
        "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias: architecture bitnet-b1.58 has no such tensor"
    );
}

#[test]
fn progress_reaches_its_end_and_can_stop_it_without_a_trace() {
    let dir = tiny(16).write(1);
    let checkpoint = Converter::open(dir.path(), &ConvertOptions::default()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.gguf");
    let mut steps = Vec::new();
    checkpoint
        .write(&path, &mut |done, total| {
            steps.push((done, total));
            true
        })
        .unwrap();
    assert!(steps.windows(2).all(|two| two[0].0 < two[1].0), "{steps:?}");
    assert!(steps.last().is_some_and(|(done, total)| done == total), "{:?}", steps.last());
    std::fs::write(&path, "before").unwrap();
    for stop in [0, 1, steps.len() / 2, steps.len() - 1] {
        let mut step = 0;
        let error = checkpoint.write(&path, &mut |_, _| {
            step += 1;
            step <= stop
        });
        let error = error.unwrap_err();
        let interrupted = std::io::ErrorKind::Interrupted;
        assert!(
            matches!(&error, bitnet_core::Error::Io { source, .. } if source.kind() == interrupted),
            "{error:?}"
        );
        assert_eq!(step, stop + 1, "it ends at once");
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1, "nothing beside it");
    }
}
