//! The golden models, taken apart and put together as checkpoints.

use std::path::PathBuf;

use bitnet_core::gguf::{Access, Gguf, TensorType};
use half::f16;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Float};

/// A golden model, in the open.
pub(super) struct Golden {
    gguf: Gguf,
    bytes: Vec<u8>,
    arch: String,
    /// A text, and what bitnet.cpp computed of it: the bits of every logit.
    pub(super) tokens: Vec<u32>,
    pub(super) logits: Vec<u32>,
}

/// What a checkpoint calls the norms inside attention and feed-forward.
pub(super) const MICROSOFT: [&str; 2] = ["self_attn.attn_sub_norm", "mlp.ffn_sub_norm"];
pub(super) const ONE_BIT: [&str; 2] = ["self_attn.inner_attn_ln", "mlp.ffn_layernorm"];

impl Golden {
    pub(super) fn open(name: &str) -> Golden {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
        let path = dir.join(format!("{name}.gguf"));
        let gguf = Gguf::open(&path, Access::Map).unwrap();
        let json = std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        let ids = |key: &str| json[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        let logits = std::fs::read(dir.join(format!("{name}.logits.f32"))).unwrap();
        Golden {
            arch: gguf.metadata().str("general.architecture").unwrap().unwrap().to_owned(),
            bytes: std::fs::read(&path).unwrap(),
            gguf,
            tokens: ids("prompt_tokens").chain(ids("generated")).collect(),
            logits: logits.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect(),
        }
    }

    /// The golden file with the scale of every ternary tensor replaced, and the logits of that.
    pub(super) fn logits_with_scales(&self, mut scale: impl FnMut(&str, f32) -> f32) -> Vec<u32> {
        let mut bytes = self.bytes.clone();
        for info in self.gguf.tensors().iter().filter(|info| info.ty == TensorType::I2_S) {
            let at = (info.offset + info.n_bytes) as usize - 32;
            let old = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&scale(&info.name, old).to_le_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scaled.gguf");
        std::fs::write(&path, bytes).unwrap();
        super::logits(Gguf::open(&path, Access::Read).unwrap(), &self.tokens)
    }

    /// A `config.json` without anything about the weights.
    pub(super) fn config(&self) -> Value {
        let metadata = self.gguf.metadata();
        let number = |key: &str| metadata.get(&format!("{}.{key}", self.arch)).unwrap();
        let count = |key: &str| number(key).as_integer().unwrap();
        let float = |key: &str| match number(key) {
            bitnet_core::gguf::Value::F32(v) => v,
            other => panic!("{key} is {other:?}"),
        };
        json!({
            "hidden_size": count("embedding_length"), "intermediate_size": count("feed_forward_length"),
            "num_hidden_layers": count("block_count"), "num_attention_heads": count("attention.head_count"),
            "num_key_value_heads": count("attention.head_count_kv"),
            "vocab_size": self.shape("token_embd.weight")[0], "max_position_embeddings": count("context_length"),
            "rms_norm_eps": float("attention.layer_norm_rms_epsilon"), "rope_theta": float("rope.freq_base"),
        })
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.gguf.tensor(name).unwrap().info.shape.clone()
    }

    /// The codes and the scale of a ternary tensor. Byte `j` of a block of 32 holds weights `j`, `j + 32`, `j + 64` and
    /// `j + 96`, the first in its highest bits; the scale follows all blocks.
    pub(super) fn codes(&self, name: &str) -> (Vec<i8>, f32) {
        let tensor = self.gguf.tensor(name).unwrap();
        assert_eq!(tensor.info.ty, TensorType::I2_S);
        let (packed, tail) = tensor.bytes.split_at(tensor.bytes.len() - 32);
        let code = |k: usize| (packed[k / 128 * 32 + k % 32] >> (6 - k % 128 / 32 * 2) & 3) as i8 - 1;
        let codes = (0..packed.len() * 4).map(code).collect();
        (codes, f32::from_le_bytes(tail[..4].try_into().unwrap()))
    }

    /// The checkpoint of this model; `projection` puts each matrix into it, given its name there without `.weight`, its
    /// shape, codes and scale.
    pub(super) fn checkpoint(
        &self,
        config: Value,
        sub_norms: [&str; 2],
        mut projection: impl FnMut(&mut Checkpoint, &str, [usize; 2], &[i8], f32),
    ) -> Checkpoint {
        let mut all = self.config();
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let mut checkpoint = Checkpoint::new(all);
        for info in self.gguf.tensors() {
            let name = their_name(&info.name, sub_norms);
            if info.ty == TensorType::I2_S {
                let (codes, scale) = self.codes(&info.name);
                let shape = [info.shape[0], info.shape[1]];
                let codes = self.halves(&info.name, shape, codes);
                projection(&mut checkpoint, name.trim_end_matches(".weight"), shape, &codes, scale);
                continue;
            }
            let bytes = self.gguf.tensor(&info.name).unwrap().bytes;
            let dtype = match info.ty {
                TensorType::F16 => "F16",
                TensorType::F32 => "F32",
                other => panic!("{} is {other:?}", info.name),
            };
            checkpoint.raw(&name, dtype, &info.shape, bytes.to_vec());
        }
        checkpoint
    }

    /// Llamas in GGUF files rotate neighbours; in checkpoints the first half of a head rotates with the second.
    fn halves(&self, name: &str, [rows, cols]: [usize; 2], codes: Vec<i8>) -> Vec<i8> {
        if self.arch != "llama" || !(name.contains("attn_q") || name.contains("attn_k")) {
            return codes;
        }
        let n_head = self.gguf.metadata().get("llama.attention.head_count").unwrap().as_integer().unwrap();
        let head = self.shape("token_embd.weight")[1] / n_head as usize;
        let mut moved = vec![9; codes.len()];
        for row in 0..rows {
            let (first, within) = (row / head * head, row % head);
            let to = first + within % 2 * (head / 2) + within / 2;
            moved[to * cols..][..cols].copy_from_slice(&codes[row * cols..][..cols]);
        }
        moved
    }

    /// The embedding as floats, for other formats.
    pub(super) fn embedding(&self) -> Vec<f32> {
        let bytes = self.gguf.tensor("token_embd.weight").unwrap().bytes;
        bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
    }
}

/// What a checkpoint calls a tensor.
fn their_name(ours: &str, [attn_sub_norm, ffn_sub_norm]: [&str; 2]) -> String {
    let Some((layer, field)) = ours.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return match ours {
            "token_embd.weight" => "model.embed_tokens.weight",
            "output_norm.weight" => "model.norm.weight",
            "output.weight" => "lm_head.weight",
            other => panic!("{other}"),
        }
        .to_owned();
    };
    let field = match field.trim_end_matches(".weight") {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_sub_norm" => attn_sub_norm,
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_sub_norm" => ffn_sub_norm,
        other => panic!("{other}"),
    };
    format!("model.layers.{layer}.{field}.weight")
}

/// Master weights that the absmean rule rounds to `codes`, and the scale it gives them: computed here from the rule as
/// published, on the values that `ty` keeps.
pub(super) fn masters(codes: &[i8], ty: Float, random: &mut super::Random) -> (Vec<f32>, f32) {
    // The mean of magnitudes is about 0.02 * (2/3 * 1.25 + 1/3 * 0.2), 0.018; codes change at half of that.
    let weights: Vec<f32> = codes
        .iter()
        .map(|code| match code {
            0 => 0.02 * 0.4 * (random.unit() - 0.5) * 2.0,
            code => f32::from(*code) * 0.02 * (0.75 + random.unit()),
        })
        .map(|w| ty.kept(w))
        .collect();
    let sum: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
    let mean = (sum / weights.len() as f64) as f32;
    for (w, code) in weights.iter().zip(codes) {
        let rounded = (w * (1.0 / mean)).round_ties_even().clamp(-1.0, 1.0);
        assert_eq!(rounded, f32::from(*code), "{w} of mean {mean}");
    }
    (weights, 1.0 / (1.0 / mean))
}
