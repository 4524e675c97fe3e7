//! The bytes of one tensor, made of the checkpoint's, a few megabytes at a time.

use std::io::Write;

use super::object::malformed;
use super::plan::{Planned, Source, Stored};
use super::safetensors::{Dtype, Entry, Safetensors};
use crate::error::{Error, Result};
use crate::gguf::{TensorType, TensorWriter};
use crate::pages::zeros;
use crate::quant::absmean::{Absmean, MeanAbs, codes_of_ternary};
use crate::quant::codes::CodeError;
use crate::quant::dense::{self, DenseType};
use crate::quant::{hf_packed, i2s, iq_bn};

/// Weights read or written together, about.
const CHUNK: usize = 1 << 20;

/// Writes tensor `planned`, whose turn it is; `wrote` is told of every piece, and can end it there.
pub(super) fn write<W: Write>(
    files: &Safetensors,
    planned: &Planned,
    out: &mut TensorWriter<W>,
    wrote: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut put = |bytes: &[u8]| {
        out.chunk(bytes)?;
        wrote(bytes.len())
    };
    match &planned.from {
        Source::Values(values) => put(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
        Source::Dense { source, ty } => write_dense(&Floats::of(files, source), *ty, &mut put),
        Source::Ternary { source, stored, permuted_heads } => {
            let &[rows, cols] = planned.shape.as_slice() else {
                unreachable!("matrices are planned as such")
            };
            let matrix = Codes::of(files, source, *stored, rows, cols)?;
            write_ternary(&matrix, *permuted_heads, planned.ty, &mut put)
        }
    }
}

fn write_dense(floats: &Floats<'_>, ty: DenseType, put: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let cols = floats.entry.shape.last().copied().unwrap_or(1);
    let rows_at_once = (CHUNK / cols).max(1);
    let mut bytes = Vec::new();
    floats.each_chunk(rows_at_once * cols, |at, values| {
        bytes.resize(ty.row_bytes(values.len()).expect("rows of whole blocks were planned"), 0);
        dense::quantize_row(ty, values, &mut bytes).map_err(|bad| {
            let at = at + bad.index;
            let expected = format!("finite values within the range of {ty}");
            floats.wrong(
                &format!("row {}, column {}", at / cols, at % cols),
                &expected,
                &bad.value.to_string(),
            )
        })?;
        put(&bytes)
    })
}

fn write_ternary(
    matrix: &Codes<'_>,
    permuted_heads: Option<usize>,
    ty: TensorType,
    put: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let &Codes { rows, cols, scale, .. } = matrix;
    let rows_at_once = permuted_heads.unwrap_or((CHUNK / cols).max(1));
    // A head's rows may be all there are.
    let room = rows_at_once.min(rows) * cols;
    let zeros = || zeros::<i8>(room).ok_or_else(|| no_memory(matrix.files, matrix.name));
    let (mut codes, mut ordered) = (zeros()?, if permuted_heads.is_some() { zeros()? } else { Vec::new() });
    for first in (0..rows).step_by(rows_at_once) {
        let n = rows_at_once.min(rows - first);
        codes.resize(n * cols, 0);
        matrix.read(first, &mut codes)?;
        if permuted_heads.is_some() {
            ordered.clear();
            neighbours(n).for_each(|row| ordered.extend_from_slice(&codes[row * cols..][..cols]));
            std::mem::swap(&mut codes, &mut ordered);
        }
        match ty {
            TensorType::I2_S => put(&i2s::pack(&codes))?,
            _ => put(&iq_bn::pack_iq2_bn(&codes, n, cols, &vec![scale; n]))?,
        }
    }
    if ty == TensorType::I2_S { put(&i2s::tail(scale)) } else { Ok(()) }
}

/// Where the rows of a head come from: checkpoints rotate row `j` with row `j + n / 2`, files of architecture
/// `llama` row `2j` with row `2j + 1`.
fn neighbours(n: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |row| row % 2 * (n / 2) + row / 2)
}

/// That there is no memory to read a tensor of the checkpoint.
fn no_memory(files: &Safetensors, name: &str) -> Error {
    Error::no_memory(files.path_of(name), &format!("tensor {name}"))
}

/// A float tensor of the checkpoint.
struct Floats<'a> {
    files: &'a Safetensors,
    name: &'a str,
    entry: &'a Entry,
    ty: DenseType,
    n: usize,
}

impl<'a> Floats<'a> {
    fn of(files: &'a Safetensors, name: &'a str) -> Floats<'a> {
        let entry = files.get(name).expect("the plan names tensors of the checkpoint");
        let Dtype::Dense(ty) = entry.dtype else { unreachable!("the plan checked the dtype") };
        Floats { files, name, entry, ty, n: entry.shape.iter().product() }
    }

    /// Reads values `at..at + values.len()`.
    fn read(&self, at: usize, values: &mut [f32], bytes: &mut Vec<u8>) -> Result<()> {
        let size = self.ty.block_bytes();
        bytes.resize(values.len() * size, 0);
        self.files.read(self.entry, (at * size) as u64, bytes)?;
        dense::dequantize_row(self.ty, bytes, values);
        Ok(())
    }

    /// Hands over all values in order, `n_at_once` at a time, with the index of the first.
    fn each_chunk(&self, n_at_once: usize, mut each: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for at in (0..self.n).step_by(n_at_once) {
            values.resize(n_at_once.min(self.n - at), 0.0);
            self.read(at, &mut values, &mut bytes)?;
            each(at, &values)?;
        }
        Ok(())
    }

    fn wrong(&self, place: &str, expected: &str, found: &str) -> Error {
        let item = format!("tensor {}, {place}", self.name);
        malformed(self.files.path_of(self.name), &item, expected, found)
    }
}

/// A ternary matrix `[rows, cols]` of the checkpoint.
struct Codes<'a> {
    files: &'a Safetensors,
    name: &'a str,
    rows: usize,
    cols: usize,
    /// `weight = code * scale`.
    scale: f32,
    form: Form<'a>,
}

/// Where its codes come from.
enum Form<'a> {
    /// The whole packed tensor: rows that share bytes are far apart.
    Packed(Vec<u8>),
    /// Floats that are ternary times this.
    Ternary(Floats<'a>, f32),
    /// Floats to be rounded.
    Rounded(Floats<'a>, Absmean),
}

impl<'a> Codes<'a> {
    fn of(
        files: &'a Safetensors,
        name: &'a str,
        stored: Stored,
        rows: usize,
        cols: usize,
    ) -> Result<Codes<'a>> {
        let (scale, form) = match stored {
            Stored::Packed { scale } => {
                let entry = files.get(name).expect("the plan names tensors of the checkpoint");
                let n = hf_packed::packed_rows(rows) * cols;
                let mut bytes = zeros(n).ok_or_else(|| no_memory(files, name))?;
                files.read(entry, 0, &mut bytes)?;
                (scale, Form::Packed(bytes))
            }
            Stored::Ternary { factor } => ternary(Floats::of(files, name), factor)?,
            Stored::Absmean { unless_ternary } => absmean(Floats::of(files, name), unless_ternary)?,
        };
        Ok(Codes { files, name, rows, cols, scale, form })
    }

    /// Reads as many rows as `codes` holds, from row `first`.
    fn read(&self, first: usize, codes: &mut [i8]) -> Result<()> {
        let at = first * self.cols;
        match &self.form {
            Form::Packed(bytes) => {
                let range = first..first + codes.len() / self.cols;
                hf_packed::unpack(bytes, self.rows, self.cols, range, codes).map_err(|e| self.bad_code(e))
            }
            Form::Ternary(floats, magnitude) => {
                let mut values = self.room(codes.len())?;
                floats.read(at, &mut values, &mut Vec::new())?;
                // The survey saw nothing else; only a file that changes while it is read gets here.
                codes_of_ternary(&values, *magnitude, codes)
                    .map_err(|_| floats.wrong("weights", "the values read before", "others"))
            }
            Form::Rounded(floats, rule) => {
                let mut values = self.room(codes.len())?;
                floats.read(at, &mut values, &mut Vec::new())?;
                rule.ternarize(&values, codes);
                Ok(())
            }
        }
    }

    /// `n` values, overwritten soon.
    fn room(&self, n: usize) -> Result<Vec<f32>> {
        zeros(n).ok_or_else(|| no_memory(self.files, self.name))
    }

    fn bad_code(&self, error: CodeError) -> Error {
        let (place, expected, found) = match error {
            CodeError::Code { row, col, found, max } => {
                (format!("row {row}, column {col}"), format!("a code of at most {max}"), found.to_string())
            }
            CodeError::Digits { row, col } => {
                (format!("row {row}, column {col}"), "base-3 digits".to_owned(), "none".to_owned())
            }
        };
        malformed(self.files.path_of(self.name), &format!("tensor {}, {place}", self.name), &expected, &found)
    }
}

/// What one pass over a matrix of floats finds out.
#[derive(Default)]
struct Survey {
    mean: MeanAbs,
    /// `|w|` of the first weight that is not zero.
    magnitude: Option<f32>,
    /// The first weight that is neither zero nor of that magnitude.
    other: Option<(usize, f32)>,
}

impl Survey {
    fn of(floats: &Floats<'_>) -> Result<Survey> {
        let mut survey = Survey::default();
        floats.each_chunk(CHUNK, |at, values| {
            survey.mean.add(values);
            if survey.other.is_none() {
                let magnitude =
                    survey.magnitude.or_else(|| values.iter().find(|w| **w != 0.0).map(|w| w.abs()));
                survey.magnitude = magnitude;
                let fits = |w: &f32| *w == 0.0 || Some(w.abs()) == magnitude;
                survey.other = values.iter().position(|w| !fits(w)).map(|i| (at + i, values[i]));
            }
            Ok(())
        })?;
        Ok(survey)
    }
}

/// Floats that must be ternary already.
fn ternary(floats: Floats<'_>, factor: f32) -> Result<(f32, Form<'_>)> {
    let survey = Survey::of(&floats)?;
    if let Some((at, found)) = survey.other {
        let cols = floats.entry.shape.last().copied().unwrap_or(1);
        return Err(Error::Unsupported {
            path: floats.files.path_of(floats.name).to_owned(),
            item: format!("tensor {}, row {}, column {}", floats.name, at / cols, at % cols),
            reason: format!(
                "{found} is not ternary like the weights before it, and config.json does not call for rounding; \
                 --absmean rounds, for models trained that way"
            ),
        });
    }
    // A matrix of zeros has any magnitude.
    let magnitude = survey.magnitude.unwrap_or(1.0);
    let scale = magnitude * factor;
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(floats.wrong("scale", "a finite number above 0", &scale.to_string()));
    }
    Ok((scale, Form::Ternary(floats, magnitude)))
}

/// Floats for the absmean rule.
fn absmean(floats: Floats<'_>, unless_ternary: bool) -> Result<(f32, Form<'_>)> {
    let survey = Survey::of(&floats)?;
    if unless_ternary && survey.other.is_none() {
        return ternary(floats, 1.0);
    }
    let rule = survey.mean.finish().map_err(|_| {
        floats.wrong("weights", "finite numbers", "an infinite one or one that is not a number")
    })?;
    Ok((rule.scale(), Form::Rounded(floats, rule)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within a head of six: rows 0, 1, 2 are rotated with rows 3, 4, 5, and become neighbours.
    #[test]
    fn rows_rotated_together_become_neighbours() {
        assert_eq!(neighbours(6).collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
    }
}
