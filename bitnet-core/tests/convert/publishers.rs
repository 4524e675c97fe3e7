//! Each publisher's layout: golden models written as they write theirs give the logits that are known of them.

use bitnet_core::gguf::Value as GgufValue;
use bitnet_core::hf::{Checkpoint as Converter, ConvertOptions};
use serde_json::json;

use super::checkpoint::{Checkpoint, Float};
use super::golden::{Golden, MICROSOFT, ONE_BIT, masters};
use super::{Random, convert, logits};

/// Converted to a file and loaded without one, the checkpoint gives these logits.
#[track_caller]
fn assert_logits(checkpoint: &Checkpoint, n_files: usize, golden: &Golden, expected: &[u32]) {
    let dir = checkpoint.write(n_files);
    let file = convert(dir.path()).unwrap();
    let in_memory = Converter::open(dir.path(), &ConvertOptions::default()).unwrap();
    let in_memory = in_memory.load(&mut |_, _| {}).unwrap();
    assert_eq!(in_memory.tensors().len(), file.tensors().len());
    assert_eq!(in_memory.file_len(), file.file_len());
    for (how, gguf) in [("from a file", file), ("in memory", in_memory)] {
        assert!(logits(gguf, &golden.tokens) == expected, "{how}: other logits");
    }
}

fn packed(checkpoint: &mut Checkpoint, name: &str, shape: [usize; 2], codes: &[i8], weight_scale: f32) {
    checkpoint.packed(name, shape, codes, weight_scale);
}

/// microsoft/bitnet-b1.58-2B-4T: packed, `weight_scale` multiplies.
#[test]
fn microsofts_packed_weights_give_bitnet_cpps_logits() {
    for name in ["b158-tiny", "b158-small", "b158-hd96"] {
        let golden = Golden::open(name);
        let mut config = json!({
            "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
            "tie_word_embeddings": true,
            "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                    "quantization_mode": "offline"},
        });
        if name == "b158-hd96" {
            config["head_dim"] = json!(96);
        }
        let checkpoint = golden.checkpoint(config, MICROSOFT, packed);
        assert_logits(&checkpoint, 1, &golden, &golden.logits);
    }
}

/// HF1BitLLM's Llama3-8B-1.58 and tiiuae's Falcon3 and Falcon-E: packed, `weight_scale` divides, q and k in halves.
#[test]
fn llamas_packed_weights_are_divided_and_their_heads_reordered() {
    let golden = Golden::open("llama-tiny");
    let expected = golden.logits_with_scales(|_, scale| 1.0 / (1.0 / scale));
    let published = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
                           "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false});
    let of = |more: serde_json::Value| {
        let mut config = published.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let configs = [
        // In the manner of HF1BitLLM: nothing is said of the class.
        of(json!({"pretraining_tp": 1, "rope_scaling": null,
                  "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": null}})),
        // Of Falcon3, which also says how wide a head is.
        of(json!({"head_dim": golden.config()["hidden_size"].as_u64().unwrap()
                      / golden.config()["num_attention_heads"].as_u64().unwrap(),
                  "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}})),
        // Of Falcon-E, with everything said.
        of(json!({"quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear",
                      "quantization_mode": "offline", "use_rms_norm": false,
                      "modules_to_not_convert": ["lm_head"]}})),
    ];
    for (config, n_files) in configs.into_iter().zip([3, 2, 1]) {
        let checkpoint = golden.checkpoint(config, MICROSOFT, |c, name, shape, codes, scale| {
            c.packed(name, shape, codes, 1.0 / scale);
        });
        assert_logits(&checkpoint, n_files, &golden, &expected);
    }
}

/// microsoft/bitnet-b1.58-2B-4T-bf16: master weights in bf16, rounded by the absmean rule.
#[test]
fn microsofts_master_weights_are_rounded() {
    let golden = Golden::open("b158-tiny");
    let config = json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "tie_word_embeddings": true,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                "quantization_mode": "online"},
    });
    assert_masters(&golden, config, MICROSOFT, Float::Bf16);
}

/// 1bitLLM/bitnet_b1_58-large and 3B: their own names of norms, and a configuration that calls itself a Llama.
#[test]
fn one_bit_llms_master_weights_are_rounded() {
    let golden = Golden::open("bitnet-tiny");
    let config = json!({
        "architectures": ["BitnetForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "tie_word_embeddings": true, "weight_bits": 1, "input_bits": 8,
    });
    assert_masters(&golden, config.clone(), ONE_BIT, Float::F16);
    assert_masters(&golden, config, ONE_BIT, Float::F32);
}

#[track_caller]
fn assert_masters(golden: &Golden, config: serde_json::Value, sub_norms: [&str; 2], ty: Float) {
    let mut random = Random(7);
    let mut scales = std::collections::HashMap::new();
    let checkpoint = golden.checkpoint(config, sub_norms, |c, name, shape, codes, _| {
        let (weights, scale) = masters(codes, ty, &mut random);
        c.floats(&format!("{name}.weight"), ty, &shape, &weights);
        scales.insert(name.to_owned(), scale);
    });
    let theirs = |ours: &str| {
        let mut parts = ours.split('.').skip(1);
        let (layer, field) = (parts.next().unwrap(), parts.next().unwrap());
        let field = match field {
            "attn_output" => "self_attn.o_proj".to_owned(),
            field if field.starts_with("attn") => format!("self_attn.{}_proj", &field[5..]),
            field => format!("mlp.{}_proj", &field[4..]),
        };
        scales[&format!("model.layers.{layer}.{field}")]
    };
    let expected = golden.logits_with_scales(|name, _| theirs(name));
    assert_logits(&checkpoint, 2, golden, &expected);
}

/// The first upload of 2B-4T repeats the embeddings as an output matrix.
#[test]
fn an_output_matrix_that_repeats_the_embeddings_is_left_out() {
    let golden = Golden::open("b158-tiny");
    let config = json!({"model_type": "bitnet", "hidden_act": "relu2", "tie_word_embeddings": false,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}});
    let mut checkpoint = golden.checkpoint(config, MICROSOFT, packed);
    let mut head = checkpoint.tensors["model.embed_tokens.weight"].clone();
    checkpoint.tensors.insert("lm_head.weight".into(), head.clone());
    assert_logits(&checkpoint, 1, &golden, &golden.logits);
    head.bytes[5] ^= 1;
    checkpoint.tensors.insert("lm_head.weight".into(), head);
    let found = super::refusal(checkpoint.write(1).path());
    assert!(
        found.starts_with("model.safetensors: tensor lm_head.weight: differs from the embeddings"),
        "{found}"
    );
}

/// Embeddings in wider formats become what `--embd` says; those of golden models are exact in F16.
#[test]
fn embeddings_change_their_format_and_nothing_else() {
    let golden = Golden::open("b158-tiny");
    let config = json!({"model_type": "bitnet", "hidden_act": "relu2",
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}});
    let mut checkpoint = golden.checkpoint(config, MICROSOFT, packed);
    let shape = checkpoint.tensors["model.embed_tokens.weight"].shape.clone();
    checkpoint.floats("model.embed_tokens.weight", Float::F32, &shape, &golden.embedding());
    assert_logits(&checkpoint, 1, &golden, &golden.logits);
}

/// Metadata: every hyperparameter of the golden file, from a `config.json` without a word too many.
#[test]
fn hyperparameters_arrive() {
    let golden = Golden::open("llama-tiny");
    let config = json!({"model_type": "llama", "tie_word_embeddings": false, "quantization_config": {},
        "rope_scaling": {"type": "linear", "factor": 4.0}});
    let checkpoint = golden.checkpoint(config, MICROSOFT, packed);
    let dir = checkpoint.write(1);
    let gguf = convert(dir.path()).unwrap();
    let get = |key: &str| gguf.metadata().get(key).unwrap_or_else(|| panic!("{key} is missing"));
    let config = &checkpoint.config;
    for (key, theirs) in [
        ("embedding_length", "hidden_size"),
        ("block_count", "num_hidden_layers"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("context_length", "max_position_embeddings"),
        ("vocab_size", "vocab_size"),
    ] {
        let expected = config[theirs].as_u64().unwrap();
        assert_eq!(get(&format!("llama.{key}")).as_integer(), Some(expected.into()), "{key}");
    }
    assert!(matches!(get("llama.rope.scaling.factor"), GgufValue::F32(4.0)));
    assert!(matches!(get("llama.rope.scaling.type"), GgufValue::Str(b"linear")));
    assert!(matches!(get("general.file_type"), GgufValue::U32(40)));
    assert_eq!(gguf.metadata().str("general.name").unwrap(), dir.path().file_name().unwrap().to_str());
}
