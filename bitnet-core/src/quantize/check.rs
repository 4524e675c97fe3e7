//! Trust, after looking: the written file is opened anew and compared, tensor by tensor, with what it was made from.

use std::path::Path;

use super::source::ternarized;
use super::{QuantizeOptions, Task, requantized, stored_scales};
use crate::error::{Error, Result};
use crate::gguf::{Access, Gguf, Value};
use crate::quant::ternary::{I2sLayout, Reading};

/// Compares the file at `written` with what `source` was to become; errors name `out`, where it is to go.
pub(super) fn check(
    source: &Gguf,
    tasks: &[Task],
    options: &QuantizeOptions,
    (written, out): (&Path, &Path),
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let differs = |item: String| Error::ReadBack { path: out.to_owned(), item };
    let copy = Gguf::open(written, Access::Map)?;

    let file_type = Value::U32(options.ty.file_type());
    for (key, value) in source.metadata().iter().filter(|(key, _)| !key.starts_with("split.")) {
        let value = if key == "general.file_type" { file_type } else { value };
        if !copy.metadata().get(key).is_some_and(|found| found.same_bits(&value)) {
            return Err(differs(format!("metadata key {key}")));
        }
    }
    if copy.tensors().len() != source.tensors().len() {
        return Err(differs("the list of tensors".into()));
    }
    // What was written is in the usual order, whatever the source had.
    let reading = Reading { i2s: I2sLayout::A, tiles: options.reading.tiles.clone() };
    let as_written = QuantizeOptions { reading, absmean: false, ..options.clone() };
    let mut done = 0;
    for ((info, task), found) in source.tensors().iter().zip(tasks).zip(copy.tensors()) {
        let same = info.name == found.name
            && info.shape == found.shape
            && match *task {
                Task::Copy => info.ty == found.ty && source.bytes_of(info) == copy.bytes_of(found),
                Task::Ternary(rows, _, packing) => {
                    let wanted = ternarized(source, info, options)?;
                    let (scales, _) = stored_scales(source, info, (rows, packing), &wanted)?;
                    let read = ternarized(&copy, found, &as_written)?;
                    found.ty == options.ty && read.codes == wanted.codes && read.scales == scales
                }
                Task::Dense(from, to) => {
                    let mut left = copy.bytes_of(found).unwrap_or_default();
                    let mut same = true;
                    requantized(source, info, from, to, |row| {
                        same &= left.split_off(..row.len()) == Some(row);
                        Ok(())
                    })?;
                    same && left.is_empty()
                }
            };
        if !same {
            return Err(differs(format!("tensor {}", info.name)));
        }
        source.release(info);
        copy.release(found);
        done += found.n_bytes;
        progress(done)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{GgufWriter, TensorType};
    use crate::quantize::task;

    #[test]
    fn any_changed_byte_that_means_something_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, weights: &[u8], norm: &[u8], key: u32| {
            let path = dir.path().join(name);
            let mut writer = GgufWriter::new();
            writer.set("k", Value::U32(key)).unwrap();
            writer.set("nan", Value::F32(f32::NAN)).unwrap(); // which is not equal to itself
            writer.set("nan64", Value::F64(f64::NAN)).unwrap();
            writer.set("general.file_type", Value::U32(40)).unwrap();
            writer.declare("blk.0.attn_q.weight", TensorType::I2_S, &[1, 128]).unwrap();
            writer.declare("blk.0.attn_norm.weight", TensorType::F32, &[1]).unwrap();
            writer
                .write_file(&path, |out| {
                    out.tensor("blk.0.attn_q.weight", weights)?;
                    out.tensor("blk.0.attn_norm.weight", norm)
                })
                .unwrap();
            path
        };
        let mut weights = [0x55; 64];
        weights[0] = 0x8a;
        weights[32..36].copy_from_slice(&0.75f32.to_le_bytes());
        let source = Gguf::open(&make("source", &weights, &[0; 4], 1), Access::Read).unwrap();
        let options =
            QuantizeOptions { ty: TensorType::I2_S, embd: None, absmean: false, reading: Reading::default() };
        let tasks: Vec<Task> = source.tensors().iter().map(|t| task(&source, t, &options).unwrap()).collect();
        let check = |weights: &[u8], norm: &[u8], key| {
            let path = make("copy", weights, norm, key);
            check(&source, &tasks, &options, (&path, "out".as_ref()), &mut |_| Ok(()))
                .map_err(|e| e.to_string())
        };
        assert_eq!(check(&weights, &[0; 4], 1), Ok(()));
        let with = |at: usize, byte: u8| {
            let mut changed = weights;
            changed[at] = byte;
            changed
        };
        assert_eq!(check(&with(63, 1), &[0; 4], 1), Ok(()), "filler means nothing");
        for (weights, norm, key, item) in [
            (with(7, 0x56), [0; 4], 1, "tensor blk.0.attn_q.weight"),
            (with(34, 0x41), [0; 4], 1, "tensor blk.0.attn_q.weight"),
            (weights, [1, 0, 0, 0], 1, "tensor blk.0.attn_norm.weight"),
            (weights, [0; 4], 2, "metadata key k"),
        ] {
            let says = format!(
                "out: {item}: what was written reads back as something else, so the file was not kept"
            );
            assert_eq!(check(&weights, &norm, key), Err(says));
        }
    }
}
