//! A tensor of any type as ternary codes and scales.

use super::QuantizeOptions;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::model::matrix::{malformed, not_run, packing};
use crate::pages::zeros;
use crate::quant::absmean::{MeanAbs, codes_of_ternary};
use crate::quant::dense::{self, DenseType};
use crate::quant::scales::Scales;

/// A ternary matrix, whatever its format was.
#[derive(Debug, PartialEq)]
pub(super) struct Ternarized {
    /// `[rows, cols]`, each -1, 0 or +1.
    pub(super) codes: Vec<i8>,
    pub(super) scales: Scales,
    /// Whether the absmean rule made it so.
    pub(super) absmean: bool,
}

/// The matrix in a tensor: as it is if its type or its values are ternary, else by the absmean rule if that is allowed.
pub(super) fn ternarized(gguf: &Gguf, info: &TensorInfo, options: &QuantizeOptions) -> Result<Ternarized> {
    let refused = |reason| Error::Unsupported {
        path: gguf.path().to_owned(),
        item: format!("tensor {}", info.name),
        reason,
    };
    let [rows, cols] = info.matrix().ok_or_else(|| no_matrix(gguf, info))?;
    let bytes = gguf.bytes_of(info).unwrap_or_default();
    if let Some(packing) = packing(gguf, &info.name, info.ty, rows, cols, &options.reading)? {
        let (codes, scales) =
            packing.read(bytes, (rows, cols)).map_err(|fault| malformed(gguf, &info.name, packing, fault))?;
        return Ok(Ternarized { codes, scales, absmean: false });
    }
    match DenseType::of(info.ty) {
        Some(ty) => {
            let codes = zeros(rows * cols).ok_or_else(|| no_memory(gguf, info))?;
            dense_matrix(bytes, ty, cols, codes, options.absmean).map_err(refused)
        }
        None => Err(not_run(gguf, info)),
    }
}

/// The refusal of a ternary tensor of more dimensions, or of one.
pub(super) fn no_matrix(gguf: &Gguf, info: &TensorInfo) -> Error {
    Error::Malformed {
        path: gguf.path().to_owned(),
        item: format!("tensor {}", info.name),
        expected: "a matrix".into(),
        found: format!("shape {:?} of type {}", info.shape, info.ty),
    }
}

/// That there is no memory to read a tensor, or to write it.
pub(super) fn no_memory(gguf: &Gguf, info: &TensorInfo) -> Error {
    Error::no_memory(gguf.path(), &format!("tensor {}", info.name))
}

/// - `bytes`: whole rows of `cols`
/// - `codes`: as many zeros
fn dense_matrix(
    bytes: &[u8],
    ty: DenseType,
    cols: usize,
    mut codes: Vec<i8>,
    absmean: bool,
) -> Result<Ternarized, String> {
    let row_bytes = ty.row_bytes(cols).filter(|&n| n > 0).ok_or("expected rows of whole blocks")?;
    let mut row = vec![0.0; cols];
    let (mut largest, mut mean) = (0.0f32, MeanAbs::default());
    for bytes in bytes.chunks_exact(row_bytes) {
        dense::dequantize_row(ty, bytes, &mut row);
        mean.add(&row);
        largest = row.iter().fold(largest, |m, v| m.max(v.abs()));
    }
    let rule = mean.finish().map_err(|e| e.to_string())?;

    let mut other = None;
    for (r, (bytes, codes)) in bytes.chunks_exact(row_bytes).zip(codes.chunks_exact_mut(cols)).enumerate() {
        dense::dequantize_row(ty, bytes, &mut row);
        if let Err(c) = codes_of_ternary(&row, largest, codes) {
            other = Some((r, c, row[c]));
            break;
        }
    }
    match other {
        None => Ok(Ternarized { codes, scales: Scales::One(largest), absmean: false }),
        Some(_) if absmean => {
            for (bytes, codes) in bytes.chunks_exact(row_bytes).zip(codes.chunks_exact_mut(cols)) {
                dense::dequantize_row(ty, bytes, &mut row);
                rule.ternarize(&row, codes);
            }
            Ok(Ternarized { codes, scales: Scales::One(rule.scale()), absmean: true })
        }
        Some((r, c, value)) => Err(format!(
            "its weights are not ternary: row {r}, column {c} is {value}, and the largest is {largest}; \
             --absmean makes them so, which only suits a model that was trained for it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(weights: &[f32], cols: usize, absmean: bool) -> Result<Ternarized, String> {
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        dense_matrix(&bytes, DenseType::F32, cols, vec![0; weights.len()], absmean)
    }

    #[test]
    fn ternary_weights_are_taken_as_they_are_even_if_absmean_is_allowed() {
        for absmean in [false, true] {
            let found = matrix(&[0.0, 0.5, -0.5, -0.0, 0.0, 0.5], 3, absmean).unwrap();
            assert_eq!(found.codes, [0, 1, -1, 0, 0, 1]);
            assert_eq!((found.scales, found.absmean), (Scales::One(0.5), false));
        }
        assert_eq!(matrix(&[0.0; 4], 2, false).unwrap().scales, Scales::One(0.0));
    }

    #[test]
    fn other_weights_are_refused_by_place_or_rounded() {
        let weights = [0.5, -0.5, 0.0, 0.25, -1.0, 0.75]; // their magnitudes average 0.5
        let reason = matrix(&weights, 3, false).unwrap_err();
        assert!(reason.contains("row 0, column 0 is 0.5, and the largest is 1"), "{reason}");
        let found = matrix(&weights, 3, true).unwrap();
        assert_eq!((found.codes, found.scales), (vec![1, -1, 0, 0, -1, 1], Scales::One(0.5)));
        assert!(found.absmean);
        assert!(matrix(&[0.5, f32::NAN], 2, true).unwrap_err().contains("finite"));
    }
}
