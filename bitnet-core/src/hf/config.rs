//! `config.json`: hyperparameters, and what it says about the weights.

use std::path::Path;

use super::object::Object;
use crate::error::Result;
use crate::gguf::{GgufWriter, TensorType, Value};
use crate::model::{Activation, Arch, MAX_POSITIONS};

const MAX_BYTES: u64 = 4 << 20;

/// What a checkpoint's `config.json` says, checked.
#[derive(Debug, Clone)]
pub(in crate::hf) struct HfConfig {
    pub(in crate::hf) json: Object<'static>,
    pub(in crate::hf) n_vocab: usize,
    n_ctx: usize,
    pub(in crate::hf) n_embd: usize,
    pub(in crate::hf) n_layer: usize,
    pub(in crate::hf) n_head: usize,
    pub(in crate::hf) n_head_kv: usize,
    pub(in crate::hf) head_dim: usize,
    pub(in crate::hf) n_ff: usize,
    norm_eps: f64,
    rope_theta: f64,
    rope: RopeScaling,
    /// `None`: not said.
    pub(in crate::hf) tied: Option<bool>,
    activation: Option<Activation>,
    pub(in crate::hf) weights: Weights,
}

/// How rotary angles are stretched beyond the positions of the first training.
#[derive(Debug, Clone)]
enum RopeScaling {
    None,
    Linear(f64),
    /// What each pair's angle is divided by, `[head_dim / 2]`.
    Factors(Vec<f32>),
}

/// What a model's stored projections mean.
#[derive(Debug, Clone, Copy)]
pub(in crate::hf) struct Weights {
    /// Whether `weight_scale` multiplies the codes; else it divides them.
    pub(in crate::hf) scale_multiplies: bool,
    /// Whether weights are quantized by the absmean rule whenever the model is loaded.
    pub(in crate::hf) absmean: bool,
}

impl HfConfig {
    pub(in crate::hf) fn read(dir: &Path) -> Result<HfConfig> {
        let json = Object::read(&dir.join("config.json"), MAX_BYTES)?;
        check_family(&json)?;
        let n_embd = json.needed("hidden_size", 1 << 20)?;
        let n_head = json.needed("num_attention_heads", 1 << 14)?;
        let n_head_kv = json.count("num_key_value_heads", 1 << 14)?.unwrap_or(n_head);
        if !n_head.is_multiple_of(n_head_kv) {
            let expected = format!("a divisor of num_attention_heads, {n_head}");
            return Err(json.wrong("num_key_value_heads", &expected));
        }
        let head_dim = match json.count("head_dim", 1024)? {
            Some(n) => n,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                return Err(json.wrong("num_attention_heads", &format!("a divisor of hidden_size, {n_embd}")));
            }
        };
        if !head_dim.is_multiple_of(2) || head_dim > 1024 {
            let key = if json.get("head_dim").is_some() { "head_dim" } else { "hidden_size" };
            return Err(json.wrong(key, "an even width of a head, at most 1024"));
        }
        // The rope of transformers 5 stands in an object of its own.
        let parameters = json.object("rope_parameters")?;
        let theta_home = parameters.as_ref().filter(|p| p.get("rope_theta").is_some()).unwrap_or(&json);
        let usual = if json.text("model_type")? == Some("bitnet") { 500_000.0 } else { 10_000.0 };
        let rope_theta = theta_home.positive("rope_theta")?.unwrap_or(usual);
        let scaling = json.object("rope_scaling")?.or(parameters);
        let rope = rope_scaling(scaling.as_ref(), &json, rope_theta, head_dim)?;
        let weights = weights(&json)?;
        Ok(HfConfig {
            n_vocab: json.needed("vocab_size", 1 << 22)?,
            n_ctx: json.needed("max_position_embeddings", MAX_POSITIONS)?,
            n_embd,
            n_layer: json.needed("num_hidden_layers", 1024)?,
            n_head,
            n_head_kv,
            head_dim,
            n_ff: json.needed("intermediate_size", 1 << 22)?,
            norm_eps: json
                .positive("rms_norm_eps")?
                .ok_or_else(|| json.wrong("rms_norm_eps", "a finite number above 0"))?,
            rope_theta,
            rope,
            tied: json.bool("tie_word_embeddings")?,
            activation: activation(&json)?,
            weights,
            json,
        })
    }

    /// The graph of a model whose attention and feed-forward have norms of their own, or have not.
    pub(in crate::hf) fn arch(&self, sub_norms: bool) -> Result<Arch> {
        // Models that do not say are Llamas, or Microsoft's.
        let microsoft = matches!(self.json.text("model_type"), Ok(Some("bitnet")));
        let usual = if sub_norms && microsoft { Activation::Relu2 } else { Activation::Silu };
        match (sub_norms, self.activation.unwrap_or(usual)) {
            (true, Activation::Relu2) => Ok(Arch::BitNetB158),
            (true, Activation::Silu) => Ok(Arch::BitNet),
            (false, Activation::Silu) => Ok(Arch::Llama),
            (false, Activation::Relu2) => {
                let reason = "no architecture of a GGUF file has it without attn_sub_norm and ffn_sub_norm";
                Err(self.json.unsupported("hidden_act", reason))
            }
        }
    }

    /// `rope_freqs.weight`, if the model needs it.
    pub(in crate::hf) fn rope_factors(&self) -> Option<&[f32]> {
        match &self.rope {
            RopeScaling::Factors(factors) => Some(factors),
            _ => None,
        }
    }

    /// Sets the keys of `arch`.
    pub(in crate::hf) fn describe(&self, arch: Arch, name: &str, writer: &mut GgufWriter) -> Result<()> {
        let arch = arch.name();
        writer.set("general.architecture", Value::Str(arch.as_bytes()))?;
        writer.set("general.name", Value::Str(name.as_bytes()))?;
        writer.set("general.file_type", Value::U32(TensorType::I2_S.file_type()))?;
        writer.set("general.quantization_version", Value::U32(2))?;
        for (key, count) in [
            ("vocab_size", self.n_vocab),
            ("context_length", self.n_ctx),
            ("embedding_length", self.n_embd),
            ("block_count", self.n_layer),
            ("feed_forward_length", self.n_ff),
            ("rope.dimension_count", self.head_dim),
            ("attention.head_count", self.n_head),
            ("attention.head_count_kv", self.n_head_kv),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
        ] {
            writer.set(&format!("{arch}.{key}"), Value::U32(count as u32))?;
        }
        let number = |value: f64| Value::F32(value as f32);
        writer.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), number(self.norm_eps))?;
        writer.set(&format!("{arch}.rope.freq_base"), number(self.rope_theta))?;
        if let RopeScaling::Linear(factor) = self.rope {
            writer.set(&format!("{arch}.rope.scaling.type"), Value::Str(b"linear"))?;
            writer.set(&format!("{arch}.rope.scaling.factor"), number(factor))?;
        }
        Ok(())
    }
}

/// Refuses models of another family before their tensors look strange.
fn check_family(json: &Object<'_>) -> Result<()> {
    let known = ["BitNetForCausalLM", "BitnetForCausalLM", "LlamaForCausalLM"];
    let named = json.get("architectures").and_then(|list| list.get(0)).and_then(|name| name.as_str());
    let by_name = named.is_some_and(|name| known.contains(&name));
    match json.text("model_type")? {
        Some("bitnet" | "llama") => Ok(()),
        _ if by_name => Ok(()),
        _ => Err(json.unsupported("model_type", "only bitnet and llama are converted")),
    }
}

fn activation(json: &Object<'_>) -> Result<Option<Activation>> {
    match json.text("hidden_act")? {
        None => Ok(None),
        Some("relu2") => Ok(Some(Activation::Relu2)),
        Some("silu" | "swish") => Ok(Some(Activation::Silu)),
        Some(_) => Err(json.unsupported("hidden_act", "only relu2 and silu are known here")),
    }
}

/// What `quantization_config` says. In transformers the class AutoBitLinear multiplies its product by `weight_scale`,
/// and BitLinear, the default, divides by it.
fn weights(json: &Object<'_>) -> Result<Weights> {
    let Some(quantization) = json.object("quantization_config")? else {
        // 1bitLLM's models, and Microsoft's in training, quantize in their own code; plain Llamas do not.
        let one_bit = json.get("weight_bits").and_then(serde_json::Value::as_u64) == Some(1);
        let bitnet = matches!(json.text("model_type"), Ok(Some("bitnet")));
        return Ok(Weights { scale_multiplies: false, absmean: one_bit || bitnet });
    };
    if quantization.text("quant_method")?.is_some_and(|method| method != "bitnet") {
        return Err(quantization.unsupported("quant_method", "only bitnet is known here"));
    }
    if quantization.bool("use_rms_norm")? == Some(true) {
        let reason = "a norm in front of every matrix is in no architecture of a GGUF file";
        return Err(quantization.unsupported("use_rms_norm", reason));
    }
    for module in
        quantization.get("modules_to_not_convert").and_then(|list| list.as_array()).into_iter().flatten()
    {
        let name = module.as_str().unwrap_or_default();
        if ["layers", "attn", "mlp", "_proj"].iter().any(|part| name.contains(part)) {
            let reason = format!("{name:?} is a projection, and this engine runs all of them as ternary");
            return Err(quantization.unsupported("modules_to_not_convert", &reason));
        }
    }
    let scale_multiplies = match quantization.text("linear_class")? {
        Some("autobitlinear") => true,
        None | Some("bitlinear") => false,
        Some(_) => return Err(quantization.wrong("linear_class", "bitlinear or autobitlinear")),
    };
    let absmean = match quantization.text("quantization_mode")? {
        Some("online") => true,
        None | Some("offline") => false,
        Some(_) => return Err(quantization.wrong("quantization_mode", "online or offline")),
    };
    Ok(Weights { scale_multiplies, absmean })
}

fn rope_scaling(
    scaling: Option<&Object<'_>>,
    config: &Object<'_>,
    theta: f64,
    head_dim: usize,
) -> Result<RopeScaling> {
    let Some(scaling) = scaling else { return Ok(RopeScaling::None) };
    let key = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    let factor = || scaling.positive("factor")?.ok_or_else(|| scaling.wrong("factor", "a number above 0"));
    match scaling.text(key)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear(factor()?)),
        Some("llama3") => {
            let number = |key| scaling.positive(key)?.ok_or_else(|| scaling.wrong(key, "a number above 0"));
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                return Err(scaling.wrong("high_freq_factor", &format!("more than low_freq_factor, {low}")));
            }
            let original = "original_max_position_embeddings";
            let home = if scaling.get(original).is_some() { scaling } else { config };
            let original = home.needed(original, MAX_POSITIONS)? as f64;
            Ok(RopeScaling::Factors(llama3_factors(theta, head_dim, factor()?, low, high, original)))
        }
        Some(_) => Err(scaling.unsupported(key, "only default, linear and llama3 are known here")),
    }
}

/// Llama 3.1's rule: short waves stay, long ones are stretched by `factor`, those between are blended.
fn llama3_factors(theta: f64, head_dim: usize, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
            let turns = original / wavelength;
            let divisor = if turns > high {
                1.0
            } else if turns < low {
                factor
            } else {
                let smooth = (turns - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            divisor as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values computed with transformers' `_compute_llama3_parameters` as default frequency over scaled one.
    #[test]
    fn llama3_factors_keep_short_waves_and_stretch_long_ones() {
        let factors = llama3_factors(500_000.0, 128, 8.0, 1.0, 4.0, 8192.0);
        assert_eq!(factors.len(), 64);
        assert_eq!((factors[0], factors[20]), (1.0, 1.0));
        assert_eq!((factors[40], factors[63]), (8.0, 8.0));
        assert!(factors.is_sorted(), "{factors:?}");
        assert!(factors.iter().any(|f| *f > 1.0 && *f < 8.0));
    }
}
