//! A checkpoint in the making.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor as safetensors holds it.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

/// Float formats of checkpoints.
#[derive(Clone, Copy, Debug)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    /// The value that this format keeps of `x`.
    pub(super) fn kept(self, x: f32) -> f32 {
        match self {
            Float::F32 => x,
            Float::F16 => f16::from_f32(x).to_f32(),
            Float::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// Tensors and JSON files, to be written and spoilt at will.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    pub(super) config: Value,
    pub(super) tensors: BTreeMap<String, Raw>,
    /// Further files: name and text.
    pub(super) files: BTreeMap<String, String>,
}

impl Checkpoint {
    pub(super) fn new(config: Value) -> Checkpoint {
        Checkpoint { config, tensors: BTreeMap::new(), files: BTreeMap::new() }
    }

    pub(super) fn raw(&mut self, name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.insert(name.to_owned(), Raw { dtype, shape: shape.to_vec(), bytes });
    }

    pub(super) fn floats(&mut self, name: &str, ty: Float, shape: &[usize], values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let (dtype, bytes) = match ty {
            Float::F32 => ("F32", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Float::F16 => ("F16", values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
            Float::Bf16 => ("BF16", values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
        };
        self.raw(name, dtype, shape, bytes);
    }

    /// A ternary matrix in two-bit codes, four rows to a byte in strided quarters, with its scale beside it.
    pub(super) fn packed(&mut self, name: &str, [rows, cols]: [usize; 2], codes: &[i8], weight_scale: f32) {
        let quarter = rows.div_ceil(4);
        let mut bytes = vec![0u8; quarter * cols];
        for (i, code) in codes.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            bytes[row % quarter * cols + col] |= ((code + 1) as u8) << (2 * (row / quarter));
        }
        self.raw(&format!("{name}.weight"), "U8", &[quarter, cols], bytes);
        self.floats(&format!("{name}.weight_scale"), Float::F32, &[1], &[weight_scale]);
    }

    /// Writes it to a new directory, its weights in `n_files` files.
    pub(super) fn write(&self, n_files: usize) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.write_to(dir.path(), n_files);
        dir
    }

    pub(super) fn write_to(&self, dir: &Path, n_files: usize) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        for (name, text) in &self.files {
            fs::write(dir.join(name), text).unwrap();
        }
        if n_files == 1 {
            fs::write(dir.join("model.safetensors"), container(self.tensors.iter())).unwrap();
            return;
        }
        let name = |i| format!("model-{:05}-of-{n_files:05}.safetensors", i + 1);
        let mut weight_map = serde_json::Map::new();
        for i in 0..n_files {
            let part: Vec<_> = self.tensors.iter().skip(i).step_by(n_files).collect();
            weight_map.extend(part.iter().map(|(tensor, _)| ((*tensor).clone(), json!(name(i)))));
            fs::write(dir.join(name(i)), container(part.into_iter())).unwrap();
        }
        let index = json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
        fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

/// The bytes of a safetensors file.
pub(super) fn container<'a>(tensors: impl Iterator<Item = (&'a String, &'a Raw)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for (name, raw) in tensors {
        let begin = data.len();
        data.extend(&raw.bytes);
        let entry = json!({"dtype": raw.dtype, "shape": raw.shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// The bytes of a safetensors file with this header, padded with spaces as real ones are.
pub(super) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.as_bytes().to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// A Microsoft model of one layer with `n_vocab` random rows of embedding and packed weights.
pub(super) fn tiny(n_vocab: usize) -> Checkpoint {
    let (n_embd, n_ff, n_kv) = (128, 256, 64);
    let mut c = Checkpoint::new(json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": n_embd, "intermediate_size": n_ff, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": n_vocab, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": true,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear",
                                "quantization_mode": "offline"},
    }));
    let mut random = super::Random(158);
    let embedding: Vec<f32> = (0..n_vocab * n_embd).map(|_| random.unit() - 0.5).collect();
    c.floats("model.embed_tokens.weight", Float::Bf16, &[n_vocab, n_embd], &embedding);
    c.floats("model.norm.weight", Float::Bf16, &[n_embd], &vec![1.0; n_embd]);
    for (name, n) in [
        ("input_layernorm", n_embd),
        ("self_attn.attn_sub_norm", n_embd),
        ("post_attention_layernorm", n_embd),
        ("mlp.ffn_sub_norm", n_ff),
    ] {
        c.floats(&format!("model.layers.0.{name}.weight"), Float::Bf16, &[n], &vec![1.0; n]);
    }
    for (name, rows, cols) in [
        ("self_attn.q_proj", n_embd, n_embd),
        ("self_attn.k_proj", n_kv, n_embd),
        ("self_attn.v_proj", n_kv, n_embd),
        ("self_attn.o_proj", n_embd, n_embd),
        ("mlp.gate_proj", n_ff, n_embd),
        ("mlp.up_proj", n_ff, n_embd),
        ("mlp.down_proj", n_embd, n_ff),
    ] {
        let codes = random.codes(rows * cols);
        c.packed(&format!("model.layers.0.{name}"), [rows, cols], &codes, 0.5);
    }
    c
}
