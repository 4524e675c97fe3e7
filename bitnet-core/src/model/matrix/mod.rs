//! A weight matrix of the file, and its product with activations.
//!
//! - `copy`: ternary weights in large pages of our own
//! - `open`: a tensor's claims, checked, and what its type means here
//! - `product`: which kernel each format goes to, and how threads share the rows

mod copy;
mod open;
mod product;

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub(super) use self::copy::copy_ternary;
pub(super) use self::open::tensor;
pub use self::product::{multiply, multiply_gated};
use crate::error::Result;
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::Kernels;
use crate::pages::Pages;
use crate::quant::dense::{self, DenseType};
use crate::quant::i2s::{Flavour, Ternary};
use crate::trace::quant_trace;

/// A matrix `[rows, cols]` that stays where the file has it, or is read from a copy.
#[derive(Debug)]
pub struct Matrix {
    gguf: Arc<Gguf>,
    info: TensorInfo,
    rows: usize,
    cols: usize,
    format: Format,
    kernel: &'static str,
    /// The copy of its codes, if there is one, and where they begin in it.
    copy: Option<(Arc<Pages<u8>>, usize)>,
}

/// How a matrix is stored, and so which kernel multiplies it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// Two-bit codes, one scale for all.
    Ternary {
        /// Which width of kernel its rows allow.
        flavour: Flavour,
        /// `weight = scale * code`.
        scale: f32,
    },
    /// f16 values, multiplied with activations rounded to f16.
    F16,
    /// Anything else: expanded to f32 row by row.
    Dense(DenseType),
}

impl Format {
    /// The name in trace lines and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Ternary { flavour, .. } => flavour.name(),
            Format::F16 => DenseType::F16.name(),
            Format::Dense(ty) => ty.name(),
        }
    }

    /// The kernel that multiplies it, by name.
    fn kernel(self, kernels: &Kernels) -> &'static str {
        match self {
            Format::Ternary { .. } => kernels.ternary_name(),
            Format::F16 | Format::Dense(_) => kernels.isa().name(),
        }
    }
}

impl Matrix {
    /// The matrix in tensor `name`, whose shape must be `[rows, cols]`.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape or a type this engine does not multiply, a ternary scale that is
    /// no number, or a code that is no ternary weight.
    pub fn new(gguf: &Arc<Gguf>, kernels: &Kernels, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let (tensor, format) = open::matrix(gguf, name, rows, cols)?;
        let kernel = format.kernel(kernels);
        quant_trace!(tensor = name, format = format.name(), kernel = kernel, shape = [rows, cols]);
        Ok(Matrix {
            gguf: Arc::clone(gguf),
            info: tensor.info.clone(),
            rows,
            cols,
            format,
            kernel,
            copy: None,
        })
    }

    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How it is stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The kernel that multiplies it, by name.
    #[must_use]
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// Its bytes in the file: what one multiplication reads.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.info.n_bytes
    }

    /// Bytes of one row, without what stands after the last.
    fn row_bytes(&self) -> usize {
        match self.format {
            Format::Ternary { .. } => self.cols / 4,
            Format::F16 | Format::Dense(_) => self.bytes().len() / self.rows,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.gguf
            .bytes_of(&self.info)
            .expect("a tensor of this file, whose range was checked when it was opened")
    }

    /// Tells the system that the file's bytes are not read any more; they come back if they are.
    pub(super) fn release(&self) {
        self.gguf.release(&self.info);
    }

    fn ternary(&self) -> Ternary<'_> {
        let (bytes, first) =
            self.copy.as_ref().map_or((self.bytes(), 0), |(copy, first)| (&copy[..], *first));
        Ternary::new(&bytes[first..][..self.n_codes()], self.rows, self.cols)
    }

    /// Bytes of the codes of a ternary matrix.
    fn n_codes(&self) -> usize {
        self.rows * (self.cols / 4)
    }

    fn halves(&self) -> &[f16] {
        bytemuck::cast_slice(self.bytes())
    }

    /// Expands row `r` to f32.
    ///
    /// # Panics
    /// If the matrix is ternary, `r` is past the last row, or `out` is not `cols` long.
    pub fn expand_row(&self, r: usize, out: &mut [f32]) {
        let ty = match self.format {
            Format::Ternary { .. } => panic!("rows of ternary {} are not looked up", self.name()),
            // All at once, several times as fast as one by one: the screen of the head is made of this.
            Format::F16 => return self.halves()[r * self.cols..][..self.cols].convert_to_f32_slice(out),
            Format::Dense(ty) => ty,
        };
        dense::dequantize_row(ty, &self.bytes()[r * self.row_bytes()..][..self.row_bytes()], out);
    }
}
