//! Hyperparameters: read from the metadata and validated together, before any of them sizes anything.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, Metadata};
use crate::ops::rope::{Pairing, Rope};

/// The network graphs this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `bitnet-b1.58`: BitNet b1.58 2B4T.
    BitNetB158,
    /// `bitnet-25`: the same graph, as the first upload called it.
    BitNet25,
    /// `bitnet`: the reproductions by 1bitLLM.
    BitNet,
    /// `llama`: ternary Llama 3, Falcon 3 and Falcon-E.
    Llama,
}

impl Arch {
    const ALL: [Arch; 4] = [Arch::BitNetB158, Arch::BitNet25, Arch::BitNet, Arch::Llama];

    /// The value of `general.architecture`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Arch::BitNetB158 => "bitnet-b1.58",
            Arch::BitNet25 => "bitnet-25",
            Arch::BitNet => "bitnet",
            Arch::Llama => "llama",
        }
    }

    /// Whether attention output and feed-forward product are normalised before their projections.
    #[must_use]
    pub fn has_sub_norms(self) -> bool {
        self != Arch::Llama
    }
}

/// The function between the gate and the down projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(gate, 0)^2 * up`.
    Relu2,
    /// `silu(gate) * up`.
    Silu,
}

/// Hyperparameters of a model. In the doc of each, `A` stands for the architecture's name in its GGUF key.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub arch: Arch,
    /// `general.name`, if there is one.
    pub name: Option<String>,
    /// Rows of the embedding matrix; `A.vocab_size` where present.
    pub n_vocab: usize,
    /// Positions the model was trained for: `A.context_length`.
    pub n_ctx_train: usize,
    /// Width of the residual stream: `A.embedding_length`.
    pub n_embd: usize,
    /// Number of blocks: `A.block_count`.
    pub n_layer: usize,
    /// Query heads: `A.attention.head_count`.
    pub n_head: usize,
    /// Key and value heads: `A.attention.head_count_kv`.
    pub n_head_kv: usize,
    /// Width of a head: `A.attention.key_length`, by default `n_embd / n_head`.
    pub head_dim: usize,
    /// Width of the feed-forward block: `A.feed_forward_length`.
    pub n_ff: usize,
    /// `A.attention.layer_norm_rms_epsilon`.
    pub norm_eps: f32,
    /// Rotary embedding; its factors come with the weights.
    pub rope: Rope,
    /// See [`Activation`].
    pub activation: Activation,
}

/// Most positions of a context: no model of this kind comes near.
pub const MAX_POSITIONS: usize = 1 << 20;
/// Columns of the widest matrix. Some kernels add codes where they stand in their byte: up to here the sums fit i32.
const MAX_COLS: usize = 1 << 22;

impl Config {
    /// Reads and validates the hyperparameters of a file.
    ///
    /// # Errors
    /// If a key is missing or contradicts another; the message names the key, what was expected and what found.
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        let meta = gguf.metadata();
        let arch = read_arch(meta)?;
        let keys = Keys { meta, arch };

        let n_embd = keys.count("embedding_length", 1 << 20)?;
        let n_layer = keys.count("block_count", 1024)?;
        let n_head = keys.count_of_layers("attention.head_count", n_layer, 1 << 14)?;
        let n_head_kv = match keys.meta.get(&keys.key("attention.head_count_kv")) {
            Some(_) => keys.count_of_layers("attention.head_count_kv", n_layer, 1 << 14)?,
            None => n_head,
        };
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.wrong("attention.head_count_kv", &format!("a divisor of head_count, {n_head}")));
        }
        let head_dim = keys.head_dim(n_embd, n_head)?;
        if n_head * head_dim > MAX_COLS {
            let expected = format!("heads of {head_dim} values that have at most {MAX_COLS} together");
            return Err(keys.wrong("attention.head_count", &expected));
        }
        let n_ff = keys.count_of_layers("feed_forward_length", n_layer, MAX_COLS)?;
        let n_ctx_train = keys.count("context_length", MAX_POSITIONS)?;
        let norm_eps = keys.positive("attention.layer_norm_rms_epsilon", None)?;
        let rope = keys.rope(head_dim)?;
        let n_vocab = read_n_vocab(gguf, &keys, n_embd)?;
        let activation = activation(meta, arch, (n_vocab, n_embd, n_layer, n_ff));
        let name = meta.str("general.name").ok().flatten().map(str::to_owned);
        Ok(Config {
            arch,
            name,
            n_vocab,
            n_ctx_train,
            n_embd,
            n_layer,
            n_head,
            n_head_kv,
            head_dim,
            n_ff,
            norm_eps,
            rope,
            activation,
        })
    }

    /// Width of a layer's keys, and of its values: `n_head_kv * head_dim`.
    #[must_use]
    pub fn n_embd_kv(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Width of the attention output: `n_head * head_dim`.
    #[must_use]
    pub fn n_embd_attn(&self) -> usize {
        self.n_head * self.head_dim
    }
}

fn read_arch(meta: &Metadata) -> Result<Arch> {
    const KEY: &str = "general.architecture";
    let name = meta.str(KEY)?.ok_or_else(|| meta.missing(KEY, "the name of an architecture"))?;
    Arch::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| Error::Unsupported {
        path: meta.path().to_owned(),
        item: format!("architecture {:?}", name.chars().take(64).collect::<String>()),
        reason: "this engine runs bitnet-b1.58, bitnet-25, bitnet and llama".into(),
    })
}

/// Rows of the embedding matrix, which `vocab_size` may state too.
fn read_n_vocab(gguf: &Gguf, keys: &Keys<'_>, n_embd: usize) -> Result<usize> {
    const NAME: &str = "token_embd.weight";
    let embd = gguf.tensor(NAME).ok_or_else(|| Error::Malformed {
        path: keys.meta.path().to_owned(),
        item: format!("tensor {NAME}"),
        expected: format!("a matrix of {n_embd} columns"),
        found: "no such tensor".into(),
    })?;
    let n_vocab = embd.info.shape.first().copied().unwrap_or(0);
    match keys.meta.usize(&keys.key("vocab_size"))? {
        Some(n) if n != n_vocab => {
            Err(keys.wrong("vocab_size", &format!("{n_vocab}, the rows of token_embd.weight")))
        }
        _ => Ok(n_vocab),
    }
}

/// The architecture's activation, except for the 1bitLLM models that a later converter labels `bitnet-b1.58`:
/// they have a sentencepiece vocabulary of 32 002 and one of two shapes, and were trained with SiLU.
fn activation(meta: &Metadata, arch: Arch, shape: (usize, usize, usize, usize)) -> Activation {
    let sentencepiece = matches!(meta.str("tokenizer.ggml.model"), Ok(Some("llama")));
    let one_bit_llm = matches!(shape, (32_002, 1536, 24, 4096) | (32_002, 3200, 26, 8640));
    match arch {
        Arch::BitNetB158 | Arch::BitNet25 if sentencepiece && one_bit_llm => Activation::Silu,
        Arch::BitNetB158 | Arch::BitNet25 => Activation::Relu2,
        Arch::BitNet | Arch::Llama => Activation::Silu,
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    meta: &'a Metadata,
    arch: Arch,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch.name())
    }

    fn wrong(&self, name: &str, expected: &str) -> Error {
        self.meta.wrong(&self.key(name), expected)
    }

    /// A number of things: at least one, at most `most`.
    fn count(&self, name: &str, most: usize) -> Result<usize> {
        let expected = || format!("an integer from 1 to {most}");
        let n = self.meta.usize(&self.key(name))?.ok_or_else(|| self.wrong(name, &expected()))?;
        if (1..=most).contains(&n) { Ok(n) } else { Err(self.wrong(name, &expected())) }
    }

    /// A count that a file may state for each layer; this engine wants the same in all.
    fn count_of_layers(&self, name: &str, n_layer: usize, most: usize) -> Result<usize> {
        let expected = || format!("one integer from 1 to {most} for all layers");
        let counts = self.meta.usize_per_layer(&self.key(name), n_layer)?;
        let counts = counts.ok_or_else(|| self.wrong(name, &expected()))?;
        match counts.first() {
            Some(&n) if (1..=most).contains(&n) && counts.iter().all(|&c| c == n) => Ok(n),
            _ => Err(self.wrong(name, &expected())),
        }
    }

    /// A finite number above zero.
    fn positive(&self, name: &str, default: Option<f32>) -> Result<f32> {
        match self.meta.f32(&self.key(name))?.or(default) {
            Some(v) if v.is_finite() && v > 0.0 => Ok(v),
            _ => Err(self.wrong(name, "a finite number above 0")),
        }
    }

    /// Width of a head, the same for keys and values.
    fn head_dim(&self, n_embd: usize, n_head: usize) -> Result<usize> {
        const MOST: usize = 1024;
        let head_dim = match self.meta.usize(&self.key("attention.key_length"))? {
            Some(n) => n,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                return Err(
                    self.wrong("attention.head_count", &format!("a divisor of embedding_length, {n_embd}"))
                );
            }
        };
        if head_dim == 0 || head_dim > MOST || !head_dim.is_multiple_of(2) {
            let name = match self.meta.get(&self.key("attention.key_length")) {
                Some(_) => "attention.key_length",
                None => "embedding_length",
            };
            return Err(self.wrong(name, &format!("an even width of a head, at most {MOST}")));
        }
        match self.meta.usize(&self.key("attention.value_length"))? {
            Some(n) if n != head_dim => {
                Err(self.wrong("attention.value_length", &format!("{head_dim}, as for the keys")))
            }
            _ => Ok(head_dim),
        }
    }

    fn rope(&self, head_dim: usize) -> Result<Rope> {
        let n_rot = self.meta.usize(&self.key("rope.dimension_count"))?.unwrap_or(head_dim);
        if n_rot != head_dim {
            return Err(self.wrong("rope.dimension_count", &format!("{head_dim}, the width of a head")));
        }
        let kind = self.meta.str(&self.key("rope.scaling.type"))?.unwrap_or("none");
        if !matches!(kind, "none" | "linear") {
            return Err(self.wrong("rope.scaling.type", "none or linear"));
        }
        // 0 and 1 both mean that angles are left alone.
        let factor = self.meta.f32(&self.key("rope.scaling.factor"))?.unwrap_or(1.0);
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(self.wrong("rope.scaling.factor", "a finite number of at least 0"));
        }
        let freq_scale = if factor == 0.0 || kind == "none" { 1.0 } else { 1.0 / factor };
        Ok(Rope {
            n_rot,
            freq_base: self.positive("rope.freq_base", Some(10_000.0))?,
            freq_scale,
            factors: Vec::new(),
            pairing: if self.arch == Arch::Llama { Pairing::Adjacent } else { Pairing::Halves },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gguf::{GgufWriter, Value};

    #[test]
    fn heads_are_not_wider_together_than_kernels_can_add() {
        let mut writer = GgufWriter::new();
        let counts = [
            ("embedding_length", 128),
            ("block_count", 1),
            ("attention.head_count", 4097),
            ("attention.head_count_kv", 1),
            ("attention.key_length", 1024),
        ];
        writer.set("general.architecture", Value::Str(b"llama")).unwrap();
        for (key, count) in counts {
            writer.set(&format!("llama.{key}"), Value::U32(count)).unwrap();
        }
        let gguf = Gguf::in_memory(Path::new("wide"), writer, |_| Ok(())).unwrap();
        let error = Config::from_gguf(&gguf).unwrap_err().to_string();
        let expected =
            "llama.attention.head_count: expected heads of 1024 values that have at most 4194304 together";
        assert!(error.contains(expected), "{error}");
    }
}
