//! Tensor names to typed fields, every shape checked once.

use std::collections::HashSet;
use std::sync::Arc;

use super::Placement;
use super::config::{Activation, Arch, Config};
use super::matrix::{Format, Matrix, place, tensor};
use super::operand::Wants;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::Kernels;
use crate::pages::zeros;
use crate::quant::dense::{self, DenseType};
use crate::quant::ternary::Reading;

/// The weights of a model. Fields keep their names in the file, without `blk.N.` and `.weight`.
#[derive(Debug)]
pub struct Weights {
    /// `[n_vocab, n_embd]`
    pub token_embd: Matrix,
    /// One for each block.
    pub layers: Vec<Layer>,
    /// `[n_embd]`
    pub output_norm: Vec<f32>,
    /// `[n_vocab, n_embd]`, where it is not tied to the embeddings.
    pub output: Option<Matrix>,
}

/// The weights of one block.
#[derive(Debug)]
pub struct Layer {
    /// `[n_embd]`
    pub attn_norm: Vec<f32>,
    /// `[n_head * head_dim, n_embd]`
    pub attn_q: Matrix,
    /// `[n_head_kv * head_dim, n_embd]`
    pub attn_k: Matrix,
    /// `[n_head_kv * head_dim, n_embd]`
    pub attn_v: Matrix,
    /// `[n_head * head_dim]`
    pub attn_sub_norm: Option<Vec<f32>>,
    /// `[n_embd, n_head * head_dim]`
    pub attn_output: Matrix,
    /// `[n_embd]`
    pub ffn_norm: Vec<f32>,
    /// `[n_ff, n_embd]`
    pub ffn_gate: Matrix,
    /// `[n_ff, n_embd]`
    pub ffn_up: Matrix,
    /// `[n_ff]`
    pub ffn_sub_norm: Option<Vec<f32>>,
    /// `[n_embd, n_ff]`
    pub ffn_down: Matrix,
}

impl Weights {
    /// Finds every tensor of the architecture, and refuses a file that lacks one or has one too many. Fills in
    /// the rotary factors, which come as a tensor.
    ///
    /// # Errors
    /// If a tensor is missing, surplus, of another shape, or of a type this engine does not run.
    pub fn from_gguf(
        gguf: &Arc<Gguf>,
        kernels: &Kernels,
        reading: &Reading,
        config: &mut Config,
    ) -> Result<Weights> {
        let Config { n_vocab, n_embd, n_ff, .. } = *config;
        let (n_attn, n_kv) = (config.n_embd_attn(), config.n_embd_kv());
        let sub_norms = config.arch.has_sub_norms();
        let relu2 = config.activation == Activation::Relu2;
        let vector = |name: String, n| vector(gguf, &name, n);
        let matrix = |name: String, rows, cols| Matrix::new(gguf, kernels, reading, &name, [rows, cols]);

        let layers = (0..config.n_layer)
            .map(|i| {
                let name = |field: &str| format!("blk.{i}.{field}.weight");
                let sub_norm = |field, n| sub_norms.then(|| vector(name(field), n)).transpose();
                Ok(Layer {
                    attn_norm: vector(name("attn_norm"), n_embd)?,
                    attn_q: matrix(name("attn_q"), n_attn, n_embd)?,
                    attn_k: matrix(name("attn_k"), n_kv, n_embd)?,
                    attn_v: matrix(name("attn_v"), n_kv, n_embd)?,
                    attn_sub_norm: sub_norm("attn_sub_norm", n_attn)?,
                    attn_output: matrix(name("attn_output"), n_embd, n_attn)?,
                    ffn_norm: vector(name("ffn_norm"), n_embd)?,
                    ffn_gate: matrix(name("ffn_gate"), n_ff, n_embd)?,
                    ffn_up: matrix(name("ffn_up"), n_ff, n_embd)?,
                    ffn_sub_norm: sub_norm("ffn_sub_norm", n_ff)?,
                    ffn_down: matrix(name("ffn_down"), n_embd, n_ff)?.for_sparse(relu2),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let token_embd = matrix("token_embd.weight".into(), n_vocab, n_embd)?;
        if matches!(token_embd.format(), Format::Ternary { .. }) {
            let info = gguf.tensor(token_embd.name()).expect("it was just found").info;
            return Err(ternary_embeddings(gguf, info));
        }
        // bitnet.cpp multiplies with the embeddings in these architectures even where the file has an output matrix
        // (the first upload of 2B-4T repeats the embeddings there), so that is what parity demands.
        let output = match (config.arch, gguf.tensor("output.weight")) {
            (Arch::Llama, Some(_)) => Some(matrix("output.weight".into(), n_vocab, n_embd)?),
            _ => None,
        };
        if gguf.tensor("rope_freqs.weight").is_some() {
            config.rope.factors = vector("rope_freqs.weight".into(), config.rope.n_rot / 2)?;
        }
        let weights =
            Weights { token_embd, layers, output_norm: vector("output_norm.weight".into(), n_embd)?, output };
        weights.refuse_surplus(gguf)?;
        Ok(weights)
    }

    /// Puts the ternary matrices where `placement` says, traces which kernel each matrix then has, and returns where they
    /// are.
    pub(super) fn place(
        &mut self,
        placement: Placement,
        mapped: bool,
        n_threads: Option<usize>,
        kernels: &Kernels,
    ) -> Result<Placement> {
        let placed = place(self.ternary_mut(), placement, mapped, n_threads, kernels)?;
        let layers = self.layers.iter().flat_map(Layer::matrices);
        layers.chain(Some(&self.token_embd)).chain(&self.output).for_each(Matrix::announce);
        Ok(placed)
    }

    /// The ternary matrices.
    pub(super) fn ternary_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let ternary = |m: &&mut Matrix| matches!(m.format(), Format::Ternary { .. });
        self.layers.iter_mut().flat_map(Layer::matrices_mut).filter(ternary)
    }

    /// The matrix that turns the last hidden state into logits.
    #[must_use]
    pub fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }

    /// Every matrix that is multiplied, in file order of a block, the head last.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(Layer::matrices).chain(std::iter::once(self.head()))
    }

    /// A tensor this engine would not use may mean a graph it does not know: biases, experts, more norms.
    fn refuse_surplus(&self, gguf: &Gguf) -> Result<()> {
        let mut known: HashSet<String> =
            ["token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"]
                .into_iter()
                .map(str::to_owned)
                .collect();
        for (i, layer) in self.layers.iter().enumerate() {
            known.extend(layer.matrices().map(|m| m.name().to_owned()));
            let norm = |field: &str| format!("blk.{i}.{field}.weight");
            known.extend([norm("attn_norm"), norm("ffn_norm")]);
            if layer.attn_sub_norm.is_some() {
                known.extend([norm("attn_sub_norm"), norm("ffn_sub_norm")]);
            }
        }
        match gguf.tensors().iter().find(|t| !known.contains(&t.name)) {
            Some(t) => Err(outer_scale(gguf, t)
                .unwrap_or_else(|| unsupported(gguf, &t.name, "this architecture has no such tensor here"))),
            None => Ok(()),
        }
    }
}

impl Layer {
    /// The seven matrices, in the order they are multiplied.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        [
            &self.attn_q,
            &self.attn_k,
            &self.attn_v,
            &self.attn_output,
            &self.ffn_gate,
            &self.ffn_up,
            &self.ffn_down,
        ]
        .into_iter()
    }

    /// Most bytes of prepared rows needed at one time for `n` tokens. Matrices with the same input are prepared
    /// together.
    pub fn prepared_bytes(&self, kernels: &Kernels, n: usize) -> usize {
        let together = [
            &[&self.attn_q, &self.attn_k, &self.attn_v][..],
            &[&self.attn_output],
            &[&self.ffn_gate, &self.ffn_up],
            &[&self.ffn_down],
        ];
        let bytes = |matrices: &[&Matrix]| matrices.iter().map(|m| m.prepared_bytes(kernels, n)).sum();
        together.into_iter().map(bytes).max().unwrap_or(0)
    }

    /// The matrices that come after attention.
    pub fn matrices_after_attention(&self) -> impl Iterator<Item = &Matrix> {
        [&self.attn_output, &self.ffn_gate, &self.ffn_up, &self.ffn_down].into_iter()
    }

    fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        [
            &mut self.attn_q,
            &mut self.attn_k,
            &mut self.attn_v,
            &mut self.attn_output,
            &mut self.ffn_gate,
            &mut self.ffn_up,
            &mut self.ffn_down,
        ]
        .into_iter()
    }
}

/// The forms of activations that `matrices` read.
pub fn wants<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> Wants {
    let mut wants = Wants::default();
    for m in matrices {
        match m.format() {
            Format::Ternary { .. } => wants.int8 = true,
            Format::F16 => wants.rounded = true,
            Format::Dense(_) => wants.float = true,
        }
    }
    wants
}

/// A vector of `n` numbers, as f32.
fn vector(gguf: &Gguf, name: &str, n: usize) -> Result<Vec<f32>> {
    let tensor = tensor(gguf, name, &[n])?;
    let ty = DenseType::of(tensor.info.ty)
        .filter(|ty| matches!(ty, DenseType::F32 | DenseType::F16 | DenseType::BF16))
        .ok_or_else(|| {
            let found = tensor.info.ty.spelled();
            let reason =
                format!("expected F32, F16 or BF16, found {found}: convert the model with it in one of them");
            unsupported(gguf, name, &reason)
        })?;
    let mut values = zeros(n).ok_or_else(|| Error::no_memory(gguf.path(), &format!("tensor {name}")))?;
    dense::dequantize_row(ty, tensor.bytes, &mut values);
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::Malformed {
            path: gguf.path().to_owned(),
            item: format!("tensor {name}"),
            expected: "finite numbers".into(),
            found: format!("{} at {at}", values[at]),
        });
    }
    Ok(values)
}

/// The refusal of ternary embeddings, a known mistake of converters.
pub(crate) fn ternary_embeddings(gguf: &Gguf, info: &TensorInfo) -> Error {
    let reason = format!(
        "embeddings cannot be ternary, and these are {}: convert the model with them in F16, Q8_0 or Q6_K",
        info.ty
    );
    unsupported(gguf, &info.name, &reason)
}

/// The refusal of `blk.N.attn_q.scale` and its like; `None` for any other tensor.
///
/// Files from before I2_S have a scale there, by which the outputs of the matrix are to be multiplied.
pub(crate) fn outer_scale(gguf: &Gguf, info: &TensorInfo) -> Option<Error> {
    info.name.strip_prefix("blk.")?.strip_suffix(".scale")?;
    let reason = format!(
        "type {} holds a scale outside its matrix, as files from before I2_S do, and this engine does not multiply \
         by it: convert the model's checkpoint again",
        info.ty
    );
    Some(unsupported(gguf, &info.name, &reason))
}

fn unsupported(gguf: &Gguf, tensor: &str, reason: &str) -> Error {
    Error::Unsupported {
        path: gguf.path().to_owned(),
        item: format!("tensor {tensor}"),
        reason: reason.to_owned(),
    }
}
