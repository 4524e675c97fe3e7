//! A weight matrix of the file, and its product with activations.
//!
//! - `open`: a tensor's claims, checked, and what its type means here
//! - `place`: ternary weights in large pages of our own, four or five to a byte, and by columns
//! - `repack`: ternary tensors of other formats, turned into the order kernels read
//! - `product`: which kernel each format goes to, for one token and for many
//! - `strips`: how threads share the rows and tokens of a product with many tokens
//! - `ready`: rows prepared once for a product with many tokens
//! - `skip`: products that leave out rows or columns which cannot matter
//! - `scaled`: ternary products whose rows or blocks have scales of their own
//! - `workspace`: what a session's products need beside what they read and write

mod open;
mod place;
mod product;
mod ready;
mod repack;
mod scaled;
mod skip;
mod strips;
mod workspace;

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub use self::open::Plan;
pub(super) use self::open::tensor;
pub(crate) use self::open::{malformed, not_run, packing};
pub(super) use self::place::place;
use self::place::{Packing, Place};
pub use self::product::{add_product, multiply};
use self::ready::Ready;
pub use self::skip::{add_sparse_product, multiply_gated};
pub use self::workspace::{Skipped, Workspace};
use crate::error::Result;
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::Kernels;
use crate::quant::columns::{Columns, column_bytes};
use crate::quant::dense::{self, DenseType};
use crate::quant::i2s::{BLOCK, Flavour, Ternary};
use crate::quant::ternary::Reading;
use crate::quant::tri5::{self, Tri5};
use crate::trace::quant_trace;

/// A weight matrix `[rows, cols]`: in the file, repacked, or copied to large pages.
#[derive(Debug)]
pub struct Matrix {
    gguf: Arc<Gguf>,
    info: TensorInfo,
    rows: usize,
    cols: usize,
    format: Format,
    kernel: String,
    codes: Codes,
    /// Its copy by rows in large pages, if there is one.
    place: Option<Place>,
    /// Whether its input is mostly zeros.
    sparse: bool,
    /// Its copy by columns in large pages, if there is one.
    columns: Option<Place>,
}

/// The codes of a ternary matrix, as they are multiplied.
enum Packed<'a> {
    /// Four weights in a byte.
    Four(Ternary<'a>),
    /// Five weights in a byte.
    Five(Tri5<'a>),
}

/// What was made at load of a tensor that kernels cannot read where the file has it.
#[derive(Debug, Default)]
struct Codes {
    /// `[rows, cols / 4]` bytes in the order kernels read, `cols` padded to whole blocks; `None` where the file's bytes
    /// or a copy are read instead.
    repacked: Option<Vec<u8>>,
    /// `[rows]` or `[rows, n]`, as [`Scale`] says.
    scales: Vec<f32>,
    /// `[rows, cols]` values that the file has at an odd address; `None` where it has them at an even one.
    halves: Option<Vec<f16>>,
}

/// How a matrix is stored, and so which kernel multiplies it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// Two-bit codes.
    Ternary {
        /// The name of the file's format; for I2_S, of its flavour.
        name: &'static str,
        /// `weight = scale * code`.
        scale: Scale,
    },
    /// f16 values, multiplied with activations rounded to f16.
    F16,
    /// Anything else: expanded to f32 row by row.
    Dense(DenseType),
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// All of them, this one.
    One(f32),
    /// Those of a row: there is a scale for each.
    Rows,
    /// Those of a block in a row: there is a scale for each.
    Blocks,
}

impl Format {
    /// The name in trace lines and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Ternary { name, .. } => name,
            Format::F16 => DenseType::F16.name(),
            Format::Dense(ty) => ty.name(),
        }
    }

    /// The name of the kernel that multiplies it. For a repacked tensor, it begins with the layout the tensor has now.
    fn kernel(self, kernels: &Kernels, cols: usize, repacked: bool) -> String {
        match self {
            Format::Ternary { scale, .. } if repacked => {
                let wide = Flavour::of(cols.next_multiple_of(BLOCK)) == Some(Flavour::Qk256);
                let layout = if wide { "qk256" } else { "i2s" };
                let scales = match scale {
                    Scale::One(_) => "",
                    Scale::Rows => "-rows",
                    Scale::Blocks => "-blocks",
                };
                format!("{layout}{scales}-{}", kernels.ternary_name())
            }
            Format::Ternary { .. } => kernels.ternary_name().to_owned(),
            Format::F16 | Format::Dense(_) => kernels.isa().name().to_owned(),
        }
    }
}

impl Matrix {
    /// The matrix in tensor `name`, whose shape must be `[rows, cols]`.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape or a type this engine does not multiply, tiles of unknown sizes, a
    /// ternary scale that is no number, or a code that is no ternary weight.
    pub fn new(
        gguf: &Arc<Gguf>,
        kernels: &Kernels,
        reading: &Reading,
        name: &str,
        [rows, cols]: [usize; 2],
    ) -> Result<Matrix> {
        let (tensor, format, codes) = open::matrix(gguf, name, rows, cols, reading)?;
        let kernel = format.kernel(kernels, cols, codes.repacked.is_some());
        Ok(Matrix {
            gguf: Arc::clone(gguf),
            info: tensor.info.clone(),
            rows,
            cols,
            format,
            kernel,
            codes,
            place: None,
            sparse: false,
            columns: None,
        })
    }

    /// The same matrix, marked, if `sparse`, as one whose input is mostly zeros: worth a copy by columns.
    #[must_use]
    pub(super) fn for_sparse(self, sparse: bool) -> Matrix {
        Matrix { sparse, ..self }
    }

    /// Traces which kernel multiplies it. To be called once it has its place, on which the kernel depends.
    pub(super) fn announce(&self) {
        quant_trace!(
            tensor = self.name(),
            format = self.format.name(),
            kernel = self.kernel,
            shape = [self.rows, self.cols]
        );
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
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Bytes that one multiplication reads: in the file, repacked, or of its copy by rows.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        match (&self.place, &self.codes.repacked) {
            (Some(_), _) => (self.rows * self.row_bytes()) as u64,
            (None, Some(codes)) => (codes.len() + size_of_val(&self.codes.scales[..])) as u64,
            (None, None) => self.info.n_bytes,
        }
    }

    /// Bytes of one row. What a tensor has after its last row is not counted.
    fn row_bytes(&self) -> usize {
        let cols = self.cols.next_multiple_of(BLOCK);
        match (self.format, &self.place) {
            (Format::Ternary { .. }, Some(place)) if place.packing() == Packing::Five => {
                tri5::row_bytes(cols)
            }
            (Format::Ternary { .. }, _) => cols / 4,
            (Format::F16 | Format::Dense(_), _) => self.bytes().len() / self.rows,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.gguf
            .bytes_of(&self.info)
            .expect("a tensor of this file, whose range was checked when it was opened")
    }

    /// Tells the system that the file's bytes need not stay in memory. Reading them again brings them back.
    pub(super) fn release(&self) {
        self.gguf.release(&self.info);
    }

    /// The codes of a ternary matrix as they are multiplied.
    fn packed(&self) -> Packed<'_> {
        let cols = self.cols.next_multiple_of(BLOCK);
        match &self.place {
            Some(place) if place.packing() == Packing::Five => {
                Packed::Five(Tri5::new(place.bytes(self.n_codes()), self.rows, cols))
            }
            _ => Packed::Four(self.ternary()),
        }
    }

    /// The codes of a ternary matrix that was not packed five to a byte.
    fn ternary(&self) -> Ternary<'_> {
        let n_codes = self.n_codes();
        let codes = match (&self.place, &self.codes.repacked) {
            (Some(place), _) => place.bytes(n_codes),
            (None, Some(codes)) => codes,
            (None, None) => &self.bytes()[..n_codes],
        };
        Ternary::new(codes, self.rows, self.cols.next_multiple_of(BLOCK))
    }

    /// The codes of a ternary matrix by columns, if there is such a copy.
    fn columns(&self) -> Option<Columns<'_>> {
        let cols = self.cols.next_multiple_of(BLOCK);
        let bytes = self.columns.as_ref()?.bytes(cols * column_bytes(self.rows));
        Some(Columns::new(bytes, self.rows, cols))
    }

    /// Bytes of the codes of a ternary matrix.
    fn n_codes(&self) -> usize {
        self.rows * self.row_bytes()
    }

    fn halves(&self) -> &[f16] {
        self.codes.halves.as_deref().unwrap_or_else(|| bytemuck::cast_slice(self.bytes()))
    }

    /// Row `r` as f32.
    ///
    /// # Panics
    /// If the matrix is ternary, `r` is past the last row, or `out` is not `cols` long.
    pub fn dequantize_row(&self, r: usize, out: &mut [f32]) {
        let ty = match self.format {
            Format::Ternary { .. } => panic!("rows of ternary {} are not looked up", self.name()),
            // Converting a whole row is several times as fast as one value after the other, and the screen of the head
            // is made from every row.
            Format::F16 => return self.halves()[r * self.cols..][..self.cols].convert_to_f32_slice(out),
            Format::Dense(ty) => ty,
        };
        dense::dequantize_row(ty, &self.bytes()[r * self.row_bytes()..][..self.row_bytes()], out);
    }
}
