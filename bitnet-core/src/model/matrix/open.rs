//! A tensor's claims, checked, and what its type means to this engine.

use half::f16;

use super::Format;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor, TensorType};
use crate::quant::dense::DenseType;
use crate::quant::i2s::{self, Flavour};

/// Tensor `name` as a matrix `[rows, cols]`, and how it is stored.
pub(super) fn matrix<'a>(
    gguf: &'a Gguf,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<(Tensor<'a>, Format)> {
    let tensor = tensor(gguf, name, &[rows, cols])?;
    let bad = |expected: &str, found: String| Error::Malformed {
        path: gguf.path().to_owned(),
        item: format!("tensor {name}"),
        expected: expected.into(),
        found,
    };
    let format = match tensor.info.ty {
        TensorType::I2_S => {
            let flavour = Flavour::of(cols)
                .ok_or_else(|| bad("I2_S rows of a multiple of 128 weights", format!("rows of {cols}")))?;
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
    Ok((tensor, format))
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
