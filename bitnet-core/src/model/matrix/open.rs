//! A tensor's claims, checked, and what its type means to this engine.

use half::f16;

use super::repack::repack;
use super::{Codes, Format, Scale};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor, TensorInfo, TensorType};
use crate::kernels::Kernels;
use crate::pages::zeros;
use crate::quant::codes::CodeError;
use crate::quant::dense::DenseType;
use crate::quant::i2s::{self, Flavour};
use crate::quant::scales::Scales;
use crate::quant::ternary::{Fault, Grain, Packing, Reading};

/// Tensor `name` as a matrix `[rows, cols]`, how it is stored, and its codes if they were repacked.
pub(super) fn matrix<'a>(
    gguf: &'a Gguf,
    name: &str,
    rows: usize,
    cols: usize,
    reading: &Reading,
) -> Result<(Tensor<'a>, Format, Codes)> {
    let tensor = tensor(gguf, name, &[rows, cols])?;
    let ty = tensor.info.ty;
    if let Some(packing) = packing(gguf, name, ty, rows, cols, reading)? {
        let (format, codes) = ternary(gguf, &tensor, packing, rows, cols)?;
        return Ok((tensor, format, codes));
    }
    let format = match DenseType::of(ty) {
        Some(DenseType::F16) => {
            let halves = aligned(tensor.bytes)
                .ok_or_else(|| Error::no_memory(gguf.path(), &format!("tensor {name}")))?;
            return Ok((tensor, Format::F16, Codes { halves, ..Codes::default() }));
        }
        Some(dense) => Format::Dense(dense),
        None => return Err(not_run(gguf, tensor.info)),
    };
    Ok((tensor, format, Codes::default()))
}

/// A copy of f16 values at an odd address, where a file's alignment is 1; `Some(None)` of others, `None` without memory.
fn aligned(bytes: &[u8]) -> Option<Option<Vec<f16>>> {
    if bytemuck::try_cast_slice::<u8, f16>(bytes).is_ok() {
        return Some(None);
    }
    let mut halves = zeros::<f16>(bytes.len() / 2)?;
    bytemuck::cast_slice_mut(&mut halves).copy_from_slice(bytes);
    Some(Some(halves))
}

/// The refusal of a tensor for its type.
pub(crate) fn not_run(gguf: &Gguf, info: &TensorInfo) -> Error {
    Error::Unsupported {
        path: gguf.path().to_owned(),
        item: format!("tensor {}", info.name),
        reason: format!(
            "type {} is not one this engine runs; it runs {}: convert the model to one of them",
            info.ty.spelled(),
            runs()
        ),
    }
}

/// How the tensor `name` of this type and shape is packed; `None` if its type is not ternary.
///
/// # Errors
/// If nothing says how it is cut into tiles, or its rows are no whole blocks.
pub(crate) fn packing(
    gguf: &Gguf,
    name: &str,
    ty: TensorType,
    rows: usize,
    cols: usize,
    reading: &Reading,
) -> Result<Option<Packing>> {
    let item = || format!("tensor {name}");
    let packing = Packing::of(ty, rows, cols, reading).map_err(|error| Error::Unsupported {
        path: gguf.path().to_owned(),
        item: item(),
        reason: format!("type {}: {error}", ty.name()),
    })?;
    match packing {
        Some(packing) if !cols.is_multiple_of(packing.row_unit()) => Err(Error::Malformed {
            path: gguf.path().to_owned(),
            item: item(),
            expected: format!("{} rows of a multiple of {} weights", ty.name(), packing.row_unit()),
            found: format!("rows of {cols}"),
        }),
        packing => Ok(packing),
    }
}

/// A ternary tensor: as the file has it, if it is what kernels read, else repacked.
fn ternary(
    gguf: &Gguf,
    tensor: &Tensor<'_>,
    packing: Packing,
    rows: usize,
    cols: usize,
) -> Result<(Format, Codes)> {
    let bad = |expected: &str, found: String| Error::Malformed {
        path: gguf.path().to_owned(),
        item: format!("tensor {}", tensor.info.name),
        expected: expected.into(),
        found,
    };
    if packing == Packing::I2s {
        let (codes, scale) = i2s::split_tensor(tensor.bytes, rows * cols)
            .ok_or_else(|| bad("codes and a scale", format!("{} bytes", tensor.bytes.len())))?;
        if !scale.is_finite() {
            return Err(bad("a finite scale after the codes", scale.to_string()));
        }
        if let Some(at) = i2s::find_code_3(codes) {
            return Err(bad("codes 0, 1 and 2", format!("code 3 in byte {at}")));
        }
        let name = format_name(tensor.info.ty, packing, cols);
        return Ok((Format::Ternary { name, scale: Scale::One(scale) }, Codes::default()));
    }
    let repacked = repack(packing, tensor.bytes, rows, cols)
        .map_err(|fault| malformed(gguf, &tensor.info.name, packing, fault))?;
    gguf.release(tensor.info);
    let (scale, scales) = match repacked.scales {
        Scales::One(scale) => (Scale::One(scale), Vec::new()),
        Scales::Rows(scales) => (Scale::Rows, scales),
        Scales::Blocks(scales) => (Scale::Blocks, scales),
    };
    let name = format_name(tensor.info.ty, packing, cols);
    Ok((Format::Ternary { name, scale }, Codes { repacked: Some(repacked.codes), scales, halves: None }))
}

/// Why the bytes of tensor `name` are not read, as an error.
pub(crate) fn malformed(gguf: &Gguf, name: &str, packing: Packing, fault: Fault) -> Error {
    let (expected, found) = match fault {
        Fault::Code(CodeError::Digits { row, col }) => {
            ("base-3 digits in every byte".into(), format!("a byte without any at row {row}, column {col}"))
        }
        Fault::Code(CodeError::Code { row, col, found, max }) => {
            (format!("codes of at most {max}"), format!("code {found} at row {row}, column {col}"))
        }
        Fault::Scale { scale, .. } if packing.grain() == Grain::Tensor => {
            ("a finite scale after the codes".into(), scale.to_string())
        }
        Fault::Scale { row, scale } => ("finite scales".into(), format!("{scale} in row {row}")),
        Fault::Memory => return Error::no_memory(gguf.path(), &format!("tensor {name}")),
    };
    Error::Malformed { path: gguf.path().to_owned(), item: format!("tensor {name}"), expected, found }
}

/// The name of a format in trace lines and tables: that of the type or, for I2_S in the order kernels read, of the
/// flavour.
fn format_name(ty: TensorType, packing: Packing, cols: usize) -> &'static str {
    match packing {
        Packing::I2s => Flavour::of(cols).map_or(ty.name(), Flavour::name),
        _ => ty.name(),
    }
}

/// What this engine does with a tensor of some type and shape, as far as its directory entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The name of its format in trace lines.
    pub format: &'static str,
    /// The kernel that multiplies it.
    pub kernel: String,
    /// Bytes that one multiplication reads, if all weights have the same scale.
    pub n_bytes: u64,
}

impl Plan {
    /// The plan for a matrix `[rows, cols]` of this type; `None` if this engine cannot multiply it.
    #[must_use]
    pub fn of(
        ty: TensorType,
        rows: usize,
        cols: usize,
        reading: &Reading,
        kernels: &Kernels,
    ) -> Option<Plan> {
        if let Some(packing) = Packing::of(ty, rows, cols, reading).ok()? {
            let (format, scale) = (format_name(ty, packing, cols), Scale::One(1.0));
            let repacked = packing != Packing::I2s;
            let kernel = Format::Ternary { name: format, scale }.kernel(kernels, cols, repacked);
            let n_bytes = if repacked {
                (rows as u64).checked_mul(cols.checked_next_multiple_of(i2s::BLOCK)? as u64 / 4)?
            } else {
                ty.n_bytes(&[rows, cols])?
            };
            return cols.is_multiple_of(packing.row_unit()).then_some(Plan { format, kernel, n_bytes });
        }
        let format = Format::Dense(DenseType::of(ty)?);
        let kernel = format.kernel(kernels, cols, false);
        Some(Plan { format: format.name(), kernel, n_bytes: ty.n_bytes(&[rows, cols])? })
    }
}

/// Tensor `name`, whose shape must be `shape`.
pub(in crate::model) fn tensor<'a>(gguf: &'a Gguf, name: &str, shape: &[usize]) -> Result<Tensor<'a>> {
    let malformed = |found: String| Error::Malformed {
        path: gguf.path().to_owned(),
        item: format!("tensor {name}"),
        expected: format!("shape {shape:?}"),
        found,
    };
    let tensor = gguf.tensor(name).ok_or_else(|| malformed("no such tensor".into()))?;
    // A vector may be written with trailing dimensions of 1, which come first here.
    let ones = tensor.info.shape.len().saturating_sub(shape.len());
    let (extra, rest) = tensor.info.shape.split_at(ones);
    if rest == shape && extra.iter().all(|&n| n == 1) {
        Ok(tensor)
    } else {
        Err(malformed(format!("{:?}", tensor.info.shape)))
    }
}

/// The types of this engine, as a refusal lists them.
fn runs() -> String {
    let ternary = "I2_S, TL1, TL2, TQ1_0, TQ2_0, IQ1_BN, IQ2_BN, IQ2_BN_R4";
    let dense: Vec<&str> = DenseType::ALL.iter().map(|ty| ty.name()).collect();
    format!("{ternary}, {}", dense.join(", "))
}
