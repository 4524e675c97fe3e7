//! A model's matrices in another number format: read, packed anew, written, read back and compared.
//!
//! The seven matrices of each block become ternary, and so does what is ternary already, wherever it stands: its bytes
//! mean what the reader was told they do, which a copy would not say. Dense embeddings and output change if asked to;
//! norms, and whatever else the file has, are copied byte for byte, and so is the metadata but for
//! `general.file_type`.
//!
//! Between ternary formats every code survives, and every scale that the new format can hold. TQ1_0, TQ2_0 and
//! IQ1_BN keep scales in half precision; how many were rounded for that is counted in [`Quantized`]. A scale for
//! each row or block that the new format has no place for is refused: nothing is averaged.
//!
//! - `source`: a tensor of any type as codes and scales
//! - `check`: the file that was written, compared with what it was made from

mod check;
mod source;

use std::cell::RefCell;
use std::io::ErrorKind;

use half::f16;

use self::source::Ternarized;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufWriter, Target, TensorInfo, TensorType, TensorWriter, Value};
use crate::model::matrix::{not_run, packing};
use crate::model::weights::{outer_scale, ternary_embeddings};
use crate::pages::has_room;
use crate::quant::dense::{self, DenseType};
use crate::quant::scales::{Scales, mark_used};
use crate::quant::ternary::{Grain, I2sLayout, Packing, Reading};

/// What a model is to become.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// The format of the ternary matrices: one of [`WRITTEN`].
    pub ty: TensorType,
    /// The format of embeddings and output; `None` leaves them as they are.
    pub embd: Option<DenseType>,
    /// Whether weights that are not ternary are made so, by the absmean rule of BitNet b1.58.
    pub absmean: bool,
    /// What the file does not say about its ternary tensors; tile sizes also for those that are written.
    pub reading: Reading,
}

/// The ternary formats that can be written.
pub const WRITTEN: [TensorType; 7] = [
    TensorType::I2_S,
    TensorType::TL1,
    TensorType::TL2,
    TensorType::TQ1_0,
    TensorType::TQ2_0,
    TensorType::IQ1_BN,
    TensorType::IQ2_BN,
];

/// What became of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantized {
    /// Matrices in the new ternary format.
    pub ternary: usize,
    /// Those of them that were made ternary by the absmean rule.
    pub absmean: usize,
    /// Embeddings and output in another dense format.
    pub embd: usize,
    /// Tensors copied byte for byte.
    pub copied: usize,
    /// Matrices with a scale that half precision had to round.
    pub rounded: usize,
    /// The largest relative error of that.
    pub worst_rounding: f64,
}

/// What happens to one tensor.
#[derive(Debug, Clone, Copy)]
enum Task {
    Copy,
    /// Rows, columns, and how they are packed.
    Ternary(usize, usize, Packing),
    /// From one dense format to another.
    Dense(DenseType, DenseType),
}

/// Writes `source` to `out` as the options say, reads it back, and only then lets it take its place there.
///
/// - `progress`: called with bytes done and bytes to do, written and then compared; when it returns false, this ends
///   with an error of the kind `Interrupted`
///
/// # Errors
/// If a matrix cannot be said in the new format, is not ternary, or is damaged; if the system refuses; or if what was
/// written reads back as something else. `out` is then as it was before.
pub fn quantize<'a>(
    source: &Gguf,
    out: impl Into<Target<'a>>,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Quantized> {
    let target = out.into();
    let out = target.path;
    let tasks: Vec<Task> =
        source.tensors().iter().map(|t| task(source, t, options)).collect::<Result<_>>()?;
    if !tasks.iter().any(|task| matches!(task, Task::Ternary(..))) {
        let reason = "it has no matrices of transformer blocks, as in blk.0.attn_q.weight".into();
        return Err(Error::Unsupported { path: source.path().to_owned(), item: "tensors".into(), reason });
    }
    let mut writer = GgufWriter::new();
    // Shards become one file.
    for (key, value) in source.metadata().iter().filter(|(key, _)| !key.starts_with("split.")) {
        writer.set(key, value)?;
    }
    writer.set("general.file_type", Value::U32(options.ty.file_type()))?;
    for (info, task) in source.tensors().iter().zip(&tasks) {
        let ty = match task {
            Task::Copy => info.ty,
            Task::Ternary(..) => options.ty,
            Task::Dense(_, to) => to.tensor_type(),
        };
        writer.declare(&info.name, ty, &info.shape)?;
    }
    let total = writer.tensor_bytes().saturating_mul(2);
    let (mut done, mut outcome) = (0, Quantized::default());
    let go_on = RefCell::new(|done| match progress(done, total) {
        true => Ok(()),
        false => {
            Err(Error::Io { path: out.to_owned(), action: "write", source: ErrorKind::Interrupted.into() })
        }
    });
    writer.write_file_if(
        target,
        |to| {
            for (info, task) in source.tensors().iter().zip(&tasks) {
                done += write(source, info, *task, options, to, &mut outcome)?;
                source.release(info);
                go_on.borrow_mut()(done)?;
            }
            Ok(())
        },
        |written| {
            check::check(source, &tasks, options, (written, out), &mut |n| go_on.borrow_mut()(total / 2 + n))
        },
    )?;
    Ok(outcome)
}

/// The seven matrices of a block.
const MATRICES: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

fn task(source: &Gguf, info: &TensorInfo, options: &QuantizeOptions) -> Result<Task> {
    let refused = |reason| Error::Unsupported {
        path: source.path().to_owned(),
        item: format!("tensor {}", info.name),
        reason,
    };
    // What this engine refuses to run is not worth writing.
    if let Some(error) = outer_scale(source, info) {
        return Err(error);
    }
    if info.name == "token_embd.weight" && Packing::is_of(info.ty) {
        return Err(ternary_embeddings(source, info));
    }
    let field = info.name.strip_prefix("blk.").and_then(|name| name.strip_suffix(".weight"));
    let field = field.and_then(|name| name.split_once('.')).map(|(_, field)| field);
    let of_block = field.is_some_and(|field| MATRICES.contains(&field));
    let embd = options.embd.filter(|_| matches!(&*info.name, "token_embd.weight" | "output.weight"));
    if let (true, Some(_)) = (Packing::is_of(info.ty), embd) {
        return Err(refused(format!(
            "type {} is ternary, which --embd does not convert; without it, this tensor becomes {} like the others",
            info.ty, options.ty
        )));
    }
    if of_block || Packing::is_of(info.ty) {
        let [rows, cols] = info.matrix().ok_or_else(|| source::no_matrix(source, info))?;
        if !Packing::is_of(info.ty) && DenseType::of(info.ty).is_none() {
            return Err(not_run(source, info)); // before anything is written
        }
        let reading = Reading { i2s: I2sLayout::A, tiles: options.reading.tiles.clone() };
        let packing = packing(source, &info.name, options.ty, rows, cols, &reading)?;
        return match packing.filter(|_| WRITTEN.contains(&options.ty)) {
            Some(packing) => Ok(Task::Ternary(rows, cols, packing)),
            None => Err(Error::Invalid {
                what: format!("--type {}", options.ty),
                reason: format!("expected one of {}", WRITTEN.map(TensorType::name).join(", ")),
            }),
        };
    }
    match (embd, info.matrix()) {
        (Some(to), Some([_, cols])) => {
            let from = DenseType::of(info.ty).ok_or_else(|| not_run(source, info))?;
            if to.row_bytes(cols).is_none() {
                let block = to.block_len();
                return Err(refused(format!(
                    "--embd {to} needs rows of a multiple of {block}, these have {cols}"
                )));
            }
            Ok(if from == to { Task::Copy } else { Task::Dense(from, to) })
        }
        _ => Ok(Task::Copy),
    }
}

/// Writes one tensor; returns its bytes.
fn write<W: std::io::Write>(
    source: &Gguf,
    info: &TensorInfo,
    task: Task,
    options: &QuantizeOptions,
    out: &mut TensorWriter<W>,
    outcome: &mut Quantized,
) -> Result<u64> {
    let bytes = source.bytes_of(info).unwrap_or_default();
    match task {
        Task::Copy => {
            outcome.copied += 1;
            out.tensor(&info.name, bytes)?;
            Ok(bytes.len() as u64)
        }
        Task::Ternary(rows, cols, packing) => {
            let matrix = source::ternarized(source, info, options)?;
            let (stored, rounding) = stored_scales(source, info, (rows, packing), &matrix)?;
            outcome.ternary += 1;
            outcome.absmean += usize::from(matrix.absmean);
            outcome.rounded += usize::from(rounding > 0.0);
            outcome.worst_rounding = outcome.worst_rounding.max(rounding);
            // Packing and spreading would abort without memory, so that they are not begun. A vector may have room for
            // twice what it holds.
            let n_scales = rows * packing.scales_per_row(cols);
            let n_packed = options.ty.n_bytes(&info.shape).unwrap_or(0) as usize;
            if !has_room(2 * n_packed + n_scales * size_of::<f32>()) {
                return Err(source::no_memory(source, info));
            }
            let scales = packing
                .spread(&stored, (rows, cols))
                .ok_or_else(|| too_fine(source, info, &stored, packing, options))?;
            let packed = packing.pack(&matrix.codes, (rows, cols), &scales).expect("the type can be written");
            out.tensor(&info.name, &packed)?;
            Ok(packed.len() as u64)
        }
        Task::Dense(from, to) => {
            outcome.embd += 1;
            let mut n = 0;
            requantized(source, info, from, to, |row| {
                n += row.len() as u64;
                out.chunk(row)
            })?;
            Ok(n)
        }
    }
}

/// The scales as the new format keeps them, and the largest relative error of that.
fn stored_scales(
    source: &Gguf,
    info: &TensorInfo,
    (rows, packing): (usize, Packing),
    matrix: &Ternarized,
) -> Result<(Scales, f64)> {
    if !packing.has_half_scales() {
        return Ok((matrix.scales.clone(), 0.0));
    }
    let mut stored = matrix.scales.values().to_vec();
    let mut worst = 0.0f64;
    for scale in &mut stored {
        let half = f16::from_f32(*scale).to_f32();
        if !half.is_finite() || (half == 0.0) != (*scale == 0.0) {
            return Err(Error::Unsupported {
                path: source.path().to_owned(),
                item: format!("tensor {}", info.name),
                reason: format!(
                    "half precision cannot hold its scale {scale}; i2_s and iq2_bn have wider scales"
                ),
            });
        }
        if half != *scale {
            worst = worst.max(((f64::from(half) - f64::from(*scale)) / f64::from(*scale)).abs());
        }
        *scale = half;
    }
    // Scales that differed may be equal now.
    let per_row = (stored.len() / rows).max(1);
    let mut used = vec![false; stored.len()];
    mark_used(&matrix.codes, &mut used);
    Ok((Scales::coarsest(stored, &used, per_row), worst))
}

/// The refusal of scales that the new format has no room for, with the formats that have.
fn too_fine(
    source: &Gguf,
    info: &TensorInfo,
    scales: &Scales,
    packing: Packing,
    options: &QuantizeOptions,
) -> Error {
    let (parts, part, fit) = match scales {
        Scales::Blocks(_) => ("blocks of 256 weights", "block", "tq1_0 and tq2_0"),
        Scales::One(_) | Scales::Rows(_) => ("rows", "row", "iq1_bn and iq2_bn"),
    };
    let kept = if packing.grain() == Grain::Tensor { "tensor" } else { "row" };
    Error::Unsupported {
        path: source.path().to_owned(),
        item: format!("tensor {}", info.name),
        reason: format!(
            "its {parts} have scales of their own, and {} keeps one for each {kept}: {fit} keep one for each {part}",
            options.ty
        ),
    }
}

/// A dense matrix in another dense format, row by row.
fn requantized(
    source: &Gguf,
    info: &TensorInfo,
    from: DenseType,
    to: DenseType,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let cols = info.shape.last().copied().unwrap_or(0);
    let bytes = source.bytes_of(info).unwrap_or_default();
    let row_bytes = |ty: DenseType| ty.row_bytes(cols).expect("rows were checked");
    let (mut values, mut row) = (vec![0.0; cols], vec![0; row_bytes(to)]);
    for (r, bytes) in bytes.chunks_exact(row_bytes(from)).enumerate() {
        dense::dequantize_row(from, bytes, &mut values);
        dense::quantize_row(to, &values, &mut row).map_err(|e| Error::Malformed {
            path: source.path().to_owned(),
            item: format!("tensor {}, row {r}, column {}", info.name, e.index),
            expected: format!("a finite value within the range of {to}"),
            found: e.value.to_string(),
        })?;
        each(&row)?;
    }
    Ok(())
}
