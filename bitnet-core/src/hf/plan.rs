//! From the checkpoint's tensors to the file's: names, shapes, types, and what has to happen to each.

use std::collections::HashSet;

use super::ConvertOptions;
use super::config::HfConfig;
use super::object::malformed;
use super::safetensors::{Dtype, Entry, Safetensors};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::model::Arch;
use crate::quant::dense::{self, DenseType};
use crate::quant::hf_packed::packed_rows;
use crate::quant::i2s;

/// A tensor of the file to be written.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) ty: TensorType,
    /// `[rows, cols]`, or `[n]`.
    pub(super) shape: Vec<usize>,
    pub(super) from: Source,
}

/// Where its values come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Floats of the checkpoint, in another float format.
    Dense { source: String, ty: DenseType },
    /// A ternary matrix.
    Ternary {
        source: String,
        stored: Stored,
        /// The rows of each head of this width move so that values rotated together are neighbours.
        permuted_heads: Option<usize>,
    },
    /// These numbers.
    Values(Vec<f32>),
}

/// How the checkpoint holds a ternary matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stored {
    /// Two-bit codes, with the scale that multiplies them.
    Packed { scale: f32 },
    /// Floats that are ternary times a constant, which this factor multiplies.
    Ternary { factor: f32 },
    /// Floats to be rounded by the absmean rule; `unless_ternary`: if they are not ternary already.
    Absmean { unless_ternary: bool },
}

/// Every tensor of the model, in the order of published files, and its graph.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) arch: Arch,
    pub(super) tensors: Vec<Planned>,
}

/// Names that GGUF files have no use for.
const IGNORED: [&str; 3] = [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl Plan {
    /// Checks every tensor of the checkpoint against its configuration.
    pub(super) fn new(config: &HfConfig, files: &Safetensors, options: &ConvertOptions) -> Result<Plan> {
        let sub_norms = SubNorms::find(files);
        let arch = config.arch(sub_norms.is_some())?;
        let mut planner = Planner { config, files, options, arch, used: HashSet::new(), tensors: Vec::new() };
        planner.all(sub_norms)?;
        planner.refuse_surplus()?;
        Ok(Plan { arch, tensors: planner.tensors })
    }
}

/// What the norms inside attention and feed-forward are called.
#[derive(Debug, Clone, Copy)]
struct SubNorms {
    attn: &'static str,
    ffn: &'static str,
}

impl SubNorms {
    /// Microsoft's names or 1bitLLM's, if the checkpoint has either of the two.
    fn find(files: &Safetensors) -> Option<SubNorms> {
        let known = [
            SubNorms { attn: "self_attn.attn_sub_norm", ffn: "mlp.ffn_sub_norm" },
            SubNorms { attn: "self_attn.inner_attn_ln", ffn: "mlp.ffn_layernorm" },
        ];
        let has = |name: &str| files.get(&format!("model.layers.0.{name}.weight")).is_some();
        known.into_iter().find(|names| has(names.attn) || has(names.ffn))
    }
}

struct Planner<'a> {
    config: &'a HfConfig,
    files: &'a Safetensors,
    options: &'a ConvertOptions,
    arch: Arch,
    used: HashSet<String>,
    tensors: Vec<Planned>,
}

impl<'a> Planner<'a> {
    fn all(&mut self, sub_norms: Option<SubNorms>) -> Result<()> {
        let &HfConfig { n_vocab, n_embd, n_ff, n_head, n_head_kv, head_dim, n_layer, .. } = self.config;
        let (n_attn, n_kv) = (n_head * head_dim, n_head_kv * head_dim);
        let permuted = (self.arch == Arch::Llama).then_some(head_dim);
        self.embedding("token_embd.weight", EMBEDDING, [n_vocab, n_embd])?;
        self.head([n_vocab, n_embd])?;
        self.norm("output_norm.weight".into(), "model.norm.weight".into(), n_embd)?;
        if let Some(factors) = self.config.rope_factors() {
            self.tensors.push(Planned {
                name: "rope_freqs.weight".into(),
                ty: TensorType::F32,
                shape: vec![factors.len()],
                from: Source::Values(factors.to_vec()),
            });
        }
        for i in 0..n_layer {
            let ours = |name: &str| format!("blk.{i}.{name}.weight");
            let theirs = |name: &str| format!("model.layers.{i}.{name}.weight");
            let attn = |name: &str| format!("model.layers.{i}.self_attn.{name}");
            let mlp = |name: &str| format!("model.layers.{i}.mlp.{name}");
            self.norm(ours("attn_norm"), theirs("input_layernorm"), n_embd)?;
            self.ternary(ours("attn_q"), &attn("q_proj"), [n_attn, n_embd], permuted)?;
            self.ternary(ours("attn_k"), &attn("k_proj"), [n_kv, n_embd], permuted)?;
            self.ternary(ours("attn_v"), &attn("v_proj"), [n_kv, n_embd], None)?;
            if let Some(names) = sub_norms {
                self.norm(ours("attn_sub_norm"), theirs(names.attn), n_attn)?;
            }
            self.ternary(ours("attn_output"), &attn("o_proj"), [n_embd, n_attn], None)?;
            self.norm(ours("ffn_norm"), theirs("post_attention_layernorm"), n_embd)?;
            self.ternary(ours("ffn_gate"), &mlp("gate_proj"), [n_ff, n_embd], None)?;
            self.ternary(ours("ffn_up"), &mlp("up_proj"), [n_ff, n_embd], None)?;
            if let Some(names) = sub_norms {
                self.norm(ours("ffn_sub_norm"), theirs(names.ffn), n_ff)?;
            }
            self.ternary(ours("ffn_down"), &mlp("down_proj"), [n_embd, n_ff], None)?;
        }
        Ok(())
    }

    /// The error of a tensor of the checkpoint.
    fn wrong(&self, name: &str, expected: &str, found: &str) -> Error {
        malformed(self.files.path_of(name), &format!("tensor {name}"), expected, found)
    }

    /// Takes a tensor that must be there, in this shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<&'a Entry> {
        let entry = self
            .files
            .get(name)
            .ok_or_else(|| self.wrong(name, &format!("a tensor of shape {shape:?}"), "no such tensor"))?;
        if entry.shape != shape {
            return Err(self.wrong(name, &format!("shape {shape:?}"), &format!("{:?}", entry.shape)));
        }
        self.used.insert(name.to_owned());
        Ok(entry)
    }

    fn push_dense(&mut self, name: String, source: String, ty: DenseType, shape: Vec<usize>) -> Result<()> {
        let entry = self.take(&source, &shape)?;
        if !matches!(entry.dtype, Dtype::Dense(_)) {
            return Err(self.wrong(&source, "BF16, F16 or F32", entry.dtype_name));
        }
        let ty_in_file = ty.tensor_type();
        self.tensors.push(Planned { name, ty: ty_in_file, shape, from: Source::Dense { source, ty } });
        Ok(())
    }

    fn norm(&mut self, name: String, source: String, n: usize) -> Result<()> {
        self.push_dense(name, source, DenseType::F32, vec![n])
    }

    fn embedding(&mut self, name: &str, source: &str, shape: [usize; 2]) -> Result<()> {
        let ty = self.options.embd;
        if ty.row_bytes(shape[1]).is_none() {
            let reason = format!(
                "expected rows of a multiple of {} values, found rows of {}; f16 takes any",
                ty.block_len(),
                shape[1]
            );
            return Err(Error::Invalid { what: format!("--embd {}", ty.name().to_lowercase()), reason });
        }
        self.push_dense(name.into(), source.into(), ty, shape.to_vec())
    }

    /// The output matrix, where it is one of its own.
    fn head(&mut self, shape: [usize; 2]) -> Result<()> {
        let present = self.files.get(HEAD).is_some();
        if self.config.tied.unwrap_or(!present) {
            self.used.insert(HEAD.into()); // if it is there, loading overwrites it
            return Ok(());
        }
        if self.arch == Arch::Llama {
            return self.embedding("output.weight", HEAD, shape);
        }
        // Every engine of these architectures multiplies with the embeddings; some checkpoints repeat them here.
        let (head, embedding) = (self.take(HEAD, &shape)?, self.take(EMBEDDING, &shape)?);
        if self.files.same_bytes(head, embedding)? {
            return Ok(());
        }
        let reason = "differs from the embeddings, but this architecture has no output matrix of its own";
        Err(Error::Unsupported {
            path: self.files.path_of(HEAD).to_owned(),
            item: format!("tensor {HEAD}"),
            reason: reason.into(),
        })
    }

    /// A projection; `source` is its name without `.weight`.
    fn ternary(
        &mut self,
        name: String,
        source: &str,
        shape: [usize; 2],
        permuted_heads: Option<usize>,
    ) -> Result<()> {
        let [rows, cols] = shape;
        let scale_name = format!("{source}.weight_scale");
        let source = format!("{source}.weight");
        let packed = self.files.get(&source).is_some_and(|entry| entry.dtype == Dtype::U8);
        let stored_rows = if packed { packed_rows(rows) } else { rows };
        let entry = self.take(&source, &[stored_rows, cols])?;
        let dtype_name = entry.dtype_name;
        let dense = matches!(entry.dtype, Dtype::Dense(_));
        let scale = self.scale(&scale_name)?;
        let stored = match (packed, scale) {
            (true, Some(scale)) => Stored::Packed { scale },
            (true, None) => {
                return Err(self.wrong(&scale_name, "the scale of a packed matrix", "no such tensor"));
            }
            _ if !dense => return Err(self.wrong(&source, "U8, BF16, F16 or F32", dtype_name)),
            (false, Some(factor)) => Stored::Ternary { factor },
            (false, None) if self.config.weights.absmean => Stored::Absmean { unless_ternary: false },
            // 1bitLLM's checkpoints say nothing at all; the norms say enough.
            (false, None)
                if self.arch != Arch::Llama && self.config.json.get("quantization_config").is_none() =>
            {
                Stored::Absmean { unless_ternary: false }
            }
            (false, None) if self.options.absmean => Stored::Absmean { unless_ternary: true },
            (false, None) => Stored::Ternary { factor: 1.0 },
        };
        let ty = if cols.is_multiple_of(i2s::BLOCK) {
            TensorType::I2_S
        } else if cols.is_multiple_of(64) {
            // bitnet_b1_58-3B has rows of 8640: no whole blocks of I2_S, but this holds the same codes and scale.
            TensorType::IQ2_BN
        } else {
            return Err(self.wrong(&source, "rows of a multiple of 64 weights", &format!("rows of {cols}")));
        };
        self.tensors.push(Planned {
            name,
            ty,
            shape: shape.to_vec(),
            from: Source::Ternary { source, stored, permuted_heads },
        });
        Ok(())
    }

    /// What multiplies a matrix's codes, if the checkpoint has such a tensor.
    fn scale(&mut self, name: &str) -> Result<Option<f32>> {
        let Some(entry) = self.files.get(name) else { return Ok(None) };
        let Dtype::Dense(ty) = entry.dtype else {
            return Err(self.wrong(name, "BF16, F16 or F32", entry.dtype_name));
        };
        if entry.shape.iter().any(|&dim| dim != 1) {
            return Err(self.wrong(name, "one number, shape [1]", &format!("shape {:?}", entry.shape)));
        }
        let mut bytes = vec![0; ty.block_bytes()];
        self.files.read(entry, 0, &mut bytes)?;
        let mut value = [0.0];
        dense::dequantize_row(ty, &bytes, &mut value);
        let [value] = value;
        let scale = if self.config.weights.scale_multiplies { value } else { 1.0 / value };
        if !(value > 0.0 && value.is_finite() && scale > 0.0 && scale.is_finite()) {
            return Err(self.wrong(name, "a finite number above 0", &value.to_string()));
        }
        self.used.insert(name.to_owned());
        Ok(Some(scale))
    }

    /// A tensor that has no place may mean a graph this engine does not know: biases, experts, more norms.
    fn refuse_surplus(&self) -> Result<()> {
        let ignored = |name: &str| IGNORED.iter().any(|end| name.ends_with(end));
        match self.files.names().find(|name| !self.used.contains(*name) && !ignored(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported {
                path: self.files.path_of(name).to_owned(),
                item: format!("tensor {name}"),
                reason: format!("architecture {} has no such tensor", self.arch.name()),
            }),
        }
    }
}
