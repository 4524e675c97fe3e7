//! A weight matrix of the file, and its product with activations.

use std::sync::Arc;

use half::f16;

use super::operand::Operand;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::kernels::Kernels;
use crate::quant::dense::{self, DenseType};
use crate::quant::i2s::{self, Flavour, Ternary};
use crate::team::{Piece, Share, Team};
use crate::trace::{quant_trace, trace_timing};

/// A matrix `[rows, cols]` that stays where the file has it.
#[derive(Debug)]
pub struct Matrix {
    gguf: Arc<Gguf>,
    info: TensorInfo,
    rows: usize,
    cols: usize,
    format: Format,
    kernel: &'static str,
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

/// Row granularity of a cut among threads: a multiple of every kernel's row group.
const ROWS_TOGETHER: usize = 32;

impl Matrix {
    /// The matrix in tensor `name`, whose shape must be `[rows, cols]`.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape or a type this engine does not multiply, a ternary scale that is
    /// no number, or a code that is no ternary weight.
    pub fn new(gguf: &Arc<Gguf>, kernels: &Kernels, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let tensor = super::weights::tensor(gguf, name, &[rows, cols])?;
        let bad = |expected: &str, found: String| Error::Malformed {
            path: gguf.path().to_owned(),
            item: format!("tensor {name}"),
            expected: expected.into(),
            found,
        };
        let format = match tensor.info.ty {
            TensorType::I2_S => {
                let flavour = Flavour::of(cols).ok_or_else(|| {
                    bad("I2_S rows of a multiple of 128 weights", format!("rows of {cols}"))
                })?;
                let (codes, scale) = i2s::split_tensor(tensor.bytes, rows * cols)
                    .ok_or_else(|| bad("codes and a scale", format!("{} bytes", tensor.bytes.len())))?;
                if !scale.is_finite() {
                    return Err(bad("a finite scale after the codes", scale.to_string()));
                }
                if let Some(at) = i2s::find_code_3(codes) {
                    return Err(bad("codes 0, 1 and 2", format!("code 3 in byte {at}")));
                }
                Format::Ternary { flavour, scale }
            }
            TensorType::F16 if bytemuck::try_cast_slice::<u8, f16>(tensor.bytes).is_ok() => Format::F16,
            ty => match supported_dense(ty) {
                Some(dense) => Format::Dense(dense),
                None => {
                    return Err(Error::Unsupported {
                        path: gguf.path().to_owned(),
                        item: format!("tensor {name}"),
                        reason: format!(
                            "type {} (id {}) is not one this engine runs: {HAVE}",
                            ty.name(),
                            ty.id()
                        ),
                    });
                }
            },
        };
        let kernel = format.kernel(kernels);
        quant_trace!(tensor = name, format = format.name(), kernel = kernel, shape = [rows, cols]);
        Ok(Matrix { gguf: Arc::clone(gguf), info: tensor.info.clone(), rows, cols, format, kernel })
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

    fn ternary(&self) -> Ternary<'_> {
        Ternary::new(&self.bytes()[..self.rows * (self.cols / 4)], self.rows, self.cols)
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
            Format::F16 => DenseType::F16,
            Format::Dense(ty) => ty,
        };
        dense::dequantize_row(ty, &self.bytes()[r * self.row_bytes()..][..self.row_bytes()], out);
    }

    /// Output `r` of the product of an F16 matrix with `x`: values an f16 can hold.
    ///
    /// # Panics
    /// If the matrix is not F16.
    pub fn logit(&self, kernels: &Kernels, r: usize, x: &[f32], y: &mut f32) {
        assert!(self.format == Format::F16, "{} is not F16", self.name());
        kernels.gemv_f16(std::slice::from_mut(y), &self.halves()[r * self.cols..][..self.cols], x);
    }

    /// Rows `first..first + y.len()` of `W x`, for the only token of `x`.
    #[trace_timing(matrix, tensor = self.name(), rows = y.values.len(), bytes = self.row_bytes() * y.values.len())]
    fn multiply_vector(&self, kernels: &Kernels, y: Piece<'_>, x: &Operand) {
        let Piece { first, values: y } = y;
        match self.format {
            _ if y.is_empty() => {}
            Format::Ternary { scale, .. } => {
                let (q, a) = x.tiles().single(0);
                kernels.gemv_i2s(y, self.ternary().slice(first, y.len()), q, a, scale);
            }
            Format::F16 => {
                let w = &self.halves()[first * self.cols..][..y.len() * self.cols];
                kernels.gemv_f16(y, w, x.rounded(0));
            }
            Format::Dense(_) => {
                let mut row = vec![0.0; self.cols];
                for (r, y) in y.iter_mut().enumerate() {
                    self.expand_row(first + r, &mut row);
                    kernels.gemv_f32(std::slice::from_mut(y), &row, x.float(0));
                }
            }
        }
    }

    /// The same rows where `gate` is positive, and 0 elsewhere.
    #[trace_timing(matrix_open, tensor = self.name(), rows = y.values.len())]
    fn multiply_open(&self, kernels: &Kernels, scale: f32, y: Piece<'_>, gate: &[f32], x: &Operand) {
        const RUN: usize = 512; // rows whose numbers fit the stack
        let (q, a) = x.tiles().single(0);
        let w = self.ternary().slice(y.first, y.values.len());
        for (i, (y, gate)) in y.values.chunks_mut(RUN).zip(gate.chunks(RUN)).enumerate() {
            let mut picked = [0; RUN];
            let mut n = 0;
            for (r, (y, &gate)) in y.iter_mut().zip(gate).enumerate() {
                *y = 0.0;
                picked[n] = r as u32;
                n += usize::from(gate > 0.0);
            }
            kernels.gemv_i2s_picked(y, w.slice(i * RUN, y.len()), &picked[..n], (q, a), scale);
        }
    }

    /// Whether every output for this vector is sure to be finite: a sum is at most `128 * cols`.
    fn is_finite(&self, scale: f32, x: &Operand) -> bool {
        let (_, a) = x.tiles().single(0);
        (128.0 * self.cols as f32 / a.s * scale).is_finite()
    }

    /// The same rows for every token of `x`.
    #[trace_timing(
        matrix,
        tensor = self.name(),
        tokens = y.len(),
        bytes = y.first().map_or(0, |y| y.len() * self.row_bytes())
    )]
    fn multiply_strip(&self, kernels: &Kernels, first: usize, y: &mut [&mut [f32]], x: &Operand) {
        let rows = y.first().map_or(0, |y| y.len());
        match self.format {
            Format::Ternary { scale, .. } => {
                let w = self.ternary().slice(first, rows);
                kernels.gemm_i2s(y, w, &x.tiles(), scale, &mut Vec::new());
            }
            Format::F16 => {
                // A few rows at a time, so that every token finds them in the cache.
                for at in (0..rows).step_by(ROWS_TOGETHER) {
                    let n = ROWS_TOGETHER.min(rows - at);
                    let w = &self.halves()[(first + at) * self.cols..][..n * self.cols];
                    for (t, y) in y.iter_mut().enumerate() {
                        kernels.gemv_f16(&mut y[at..at + n], w, x.rounded(t));
                    }
                }
            }
            Format::Dense(_) => {
                let mut row = vec![0.0; self.cols];
                for r in 0..rows {
                    self.expand_row(first + r, &mut row);
                    for (t, y) in y.iter_mut().enumerate() {
                        kernels.gemv_f32(&mut y[r..=r], &row, x.float(t));
                    }
                }
            }
        }
    }
}

/// `y = W x` for several matrices that read the same activations, in one parallel region.
///
/// - each `y`: `[n, rows]`, overwritten; `x`: `[n, cols]`
///
/// # Panics
/// If a length disagrees with a shape above.
pub fn multiply<const M: usize>(
    team: &Team,
    kernels: &Kernels,
    products: [(&Matrix, &mut [f32]); M],
    x: &Operand,
) {
    for (m, y) in &products {
        assert_eq!(x.cols(), m.cols, "{}: activations are {} wide", m.name(), x.cols());
        assert_eq!(y.len(), x.n() * m.rows, "{}: outputs for {} tokens", m.name(), x.n());
    }
    if x.n() == 1 {
        let matrices = products.each_ref().map(|(m, _)| *m);
        let shares = products.map(|(_, y)| Share { values: y, unit: ROWS_TOGETHER });
        team.split(shares, |pieces| {
            for (m, y) in matrices.iter().zip(pieces) {
                m.multiply_vector(kernels, y, x);
            }
        });
    } else {
        let strips = products.into_iter().flat_map(|(m, y)| strips(m, y, team.len())).collect();
        team.each(strips, |mut s: Strip<'_>| s.matrix.multiply_strip(kernels, s.first, &mut s.y, x));
    }
}

/// `gate = W_gate x` and, only where that is positive, `up = W_up x`; elsewhere `up` is 0.
///
/// For squared ReLU: where the gate is not positive, `max(gate, 0)^2 * up` is zero whatever finite value `up` has,
/// so the rows of `W_up` behind it need not be read. One token only, and ternary matrices; anything else is
/// [`multiply`].
///
/// # Panics
/// If a length disagrees with a shape.
pub fn multiply_gated(
    team: &Team,
    kernels: &Kernels,
    (gate, gate_y): (&Matrix, &mut [f32]),
    (up, up_y): (&Matrix, &mut [f32]),
    x: &Operand,
) {
    let scale = match (gate.format, up.format) {
        (Format::Ternary { .. }, Format::Ternary { scale, .. }) if x.n() == 1 && up.is_finite(scale, x) => {
            scale
        }
        _ => return multiply(team, kernels, [(gate, gate_y), (up, up_y)], x),
    };
    assert!(gate_y.len() == gate.rows && up_y.len() == up.rows && gate.rows == up.rows, "gate and up differ");
    let shares = [Share { values: gate_y, unit: ROWS_TOGETHER }, Share { values: up_y, unit: ROWS_TOGETHER }];
    team.split(shares, |[gate_y, up_y]| {
        let first = up_y.first;
        let gate_values = &mut *gate_y.values;
        gate.multiply_vector(kernels, Piece { first, values: gate_values }, x);
        up.multiply_open(kernels, scale, Piece { first, values: up_y.values }, gate_values, x);
    });
}

/// Some rows of a product, for every token.
struct Strip<'a> {
    matrix: &'a Matrix,
    first: usize,
    y: Vec<&'a mut [f32]>,
}

/// Cuts a product into a few strips for each thread: enough that the last one to finish is not waited for long.
fn strips<'a>(matrix: &'a Matrix, y: &'a mut [f32], n_threads: usize) -> Vec<Strip<'a>> {
    const STRIPS_PER_THREAD: usize = 4;
    let rows = matrix.rows.div_ceil(n_threads * STRIPS_PER_THREAD).next_multiple_of(ROWS_TOGETHER);
    let mut strips: Vec<Strip<'_>> =
        (0..matrix.rows).step_by(rows).map(|first| Strip { matrix, first, y: Vec::new() }).collect();
    for token in y.chunks_exact_mut(matrix.rows) {
        for (strip, y) in strips.iter_mut().zip(token.chunks_mut(rows)) {
            strip.y.push(y);
        }
    }
    strips
}

/// The dense formats that are multiplied, as a refusal lists them.
const HAVE: &str = "I2_S, F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K";

fn supported_dense(ty: TensorType) -> Option<DenseType> {
    match ty {
        TensorType::F32 => Some(DenseType::F32),
        TensorType::F16 => Some(DenseType::F16),
        TensorType::BF16 => Some(DenseType::BF16),
        TensorType::Q8_0 => Some(DenseType::Q8_0),
        TensorType::Q4_0 => Some(DenseType::Q4_0),
        TensorType::Q4_K => Some(DenseType::Q4_K),
        TensorType::Q6_K => Some(DenseType::Q6_K),
        _ => None,
    }
}
