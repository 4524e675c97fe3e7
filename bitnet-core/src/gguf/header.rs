//! The header of one file, checked: every rule that keeps a hostile file from doing harm is in here, in `value`
//! (what a value may look like) and in `tensor` (what a type demands of a shape).
//!
//! No memory is asked for because of a number in the file before that number was compared with the bytes left.

use std::collections::HashSet;
use std::path::Path;

use super::metadata::Entry;
use super::reader::{Fault, Reader};
use super::tensor::{Family, TensorInfo, TensorType};
use super::value::{Value, ValueType};
use crate::{Error, Result};

/// The part that every file has: magic, version and two counts.
pub(super) const MIN_LEN: u64 = 24;
/// Alignment of tensors where `general.alignment` does not say otherwise.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

const MAGIC: [u8; 4] = *b"GGUF";
const MAX_ENTRIES: u64 = 65_536;
/// The smallest entry: an empty key (8 bytes of length), a type, a value of one byte.
const MIN_ENTRY: u64 = 8 + 4 + 1;
const MAX_TENSORS: u64 = 65_536;
/// The smallest tensor info: an empty name, the number of dimensions, one dimension, a type, an offset.
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;
const MAX_KEY: u64 = 65_535;
/// The reference readers keep names in 64 bytes, the last of them zero.
const MAX_NAME: u64 = 63;
const MAX_DIMS: u32 = 4;
const MAX_DIM: u64 = 1 << 40;
const MAX_ELEMENTS: u64 = 1 << 48;
const MAX_ALIGNMENT: u64 = 65_536;

/// What to do with a model in a type that nothing here can measure.
const AGAIN: &str = "make the file again in a type like I2_S, TQ2_0, IQ2_BN, F16 or Q8_0";

/// What a header says, every part of it checked against the file.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) data_offset: u64,
    pub(super) alignment: u64,
}

/// Checks magic and version; the version is returned.
pub(super) fn check_start(path: &Path, start: &[u8]) -> Result<u32> {
    let mut r = Reader::new(start);
    let magic = r.take(4).map_err(|fault| fault.at(path, "magic"))?;
    if magic != MAGIC {
        let found = format!("\"{}\"", magic.escape_ascii());
        return Err(Fault::new("\"GGUF\", the first four bytes of a GGUF file", found).at(path, "magic"));
    }
    let unsupported = |reason: &str| Error::Unsupported {
        path: path.to_owned(),
        item: "version".into(),
        reason: reason.into(),
    };
    match r.u32().map_err(|fault| fault.at(path, "version"))? {
        version @ (2 | 3) => Ok(version),
        1 => {
            Err(unsupported("expected 2 or 3, found 1, whose lengths have 32 bits; convert the model again"))
        }
        swapped if swapped & 0xffff == 0 && swapped != 0 => Err(unsupported(
            "this is a big-endian file, only little-endian ones are read; convert the model for little-endian",
        )),
        other => Err(Fault::new("2 or 3", other.to_string()).at(path, "version")),
    }
}

/// Reads and checks the header at the start of `file`. `family` settles what type 39 is; without it, the
/// metadata of this very file do.
pub(super) fn parse(path: &Path, file: &[u8], family: Option<Family>) -> Result<Header> {
    let version = check_start(path, file)?;
    let mut r = Reader::new(file);
    let counts = (r.take(8), r.u64(), r.u64());
    let (Ok(_), Ok(n_tensors), Ok(n_entries)) = counts else {
        return Err(Fault::new(format!("{MIN_LEN} bytes"), file.len().to_string()).at(path, "header"));
    };
    check_count(&r, n_entries, MAX_ENTRIES, MIN_ENTRY).map_err(|f| f.at(path, "number of metadata keys"))?;
    check_count(&r, n_tensors, MAX_TENSORS, MIN_TENSOR).map_err(|f| f.at(path, "number of tensors"))?;

    let entries = read_entries(path, &mut r, n_entries)?;
    let alignment = alignment(path, file, &entries)?;
    let family = family.unwrap_or_else(|| family_of(file, &entries));

    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for i in 0..n_tensors {
        let info = read_tensor(path, &mut r, i, family, alignment)?;
        if !names.insert(info.name.clone()) {
            let fault = Fault::new("a name that is used once", "the same name again");
            return Err(fault.at(path, format!("tensor {}", info.name)));
        }
        tensors.push(info);
    }

    let file_len = file.len() as u64;
    let data_offset = (r.position() as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    if data_offset > file_len && !tensors.is_empty() {
        let expected = format!("tensor data from offset {data_offset}");
        return Err(Fault::new(expected, format!("a file of {file_len} bytes")).at(path, "tensor data"));
    }
    for info in &mut tensors {
        place(info, data_offset, file_len).map_err(|f| f.at(path, format!("tensor {}", info.name)))?;
    }
    check_overlap(path, &tensors)?;
    Ok(Header { version, entries, tensors, data_offset, alignment })
}

fn check_count(r: &Reader<'_>, n: u64, max: u64, least_bytes: u64) -> Result<(), Fault> {
    let left = r.remaining() as u64;
    if n > max {
        return Err(Fault::new(format!("at most {max}"), n.to_string()));
    }
    if n.checked_mul(least_bytes).is_none_or(|bytes| bytes > left) {
        let expected = format!("as many as fit the {left} bytes left, {least_bytes} bytes or more each");
        return Err(Fault::new(expected, n.to_string()));
    }
    Ok(())
}

fn read_entries(path: &Path, r: &mut Reader<'_>, n: u64) -> Result<Vec<Entry>> {
    let mut keys = HashSet::new();
    let mut entries = Vec::new();
    for i in 0..n {
        let key = text(r, MAX_KEY).map_err(|fault| fault.at(path, format!("metadata key number {i}")))?;
        let item = || format!("metadata key {key}");
        if !keys.insert(key) {
            return Err(Fault::new("a key that is used once", "the same key again").at(path, item()));
        }
        let id = r.u32().map_err(|fault| fault.at(path, item()))?;
        let ty = ValueType::from_id(id)
            .ok_or_else(|| Fault::new("a value of type 0 to 12", format!("type {id}")).at(path, item()))?;
        let start = r.position();
        Value::read(r, ty).map_err(|fault| fault.at(path, item()))?;
        entries.push(Entry { key: key.to_owned(), ty, range: start..r.position() });
    }
    Ok(entries)
}

/// A key or a name: text that is not empty and can be printed.
fn text<'a>(r: &mut Reader<'a>, max: u64) -> Result<&'a str, Fault> {
    let bytes = r.string(max)?;
    let expected = || format!("1 to {max} bytes of UTF-8 without a zero byte");
    match std::str::from_utf8(bytes) {
        Ok("") => Err(Fault::new(expected(), "an empty string")),
        Ok(text) if text.contains('\0') => Err(Fault::new(expected(), format!("{text:?}"))),
        Ok(text) => Ok(text),
        Err(_) => Err(Fault::new(expected(), format!("\"{}\"", bytes.escape_ascii()))),
    }
}

fn alignment(path: &Path, file: &[u8], entries: &[Entry]) -> Result<u64> {
    const KEY: &str = "general.alignment";
    let Some(value) = find(file, entries, KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    let wrong = |found: String| {
        let expected = format!("a u32 that is a power of two and at most {MAX_ALIGNMENT}");
        Fault::new(expected, found).at(path, format!("metadata key {KEY}"))
    };
    match value {
        Value::U32(v) if is_alignment(v) => Ok(v.into()),
        other => Err(wrong(format!("{} {other}", other.ty().name()))),
    }
}

/// Whether tensors can be aligned to so many bytes.
pub(super) fn is_alignment(v: u32) -> bool {
    v.is_power_of_two() && u64::from(v) <= MAX_ALIGNMENT
}

/// bitnet.cpp's files name a bitnet architecture, or say that they are of its file type TL2.
pub(super) fn family_of(file: &[u8], entries: &[Entry]) -> Family {
    const FILE_TYPE_TL2: i128 = 39;
    let arch = find(file, entries, "general.architecture");
    let bitnet = matches!(arch, Some(Value::Str(name)) if name.starts_with(b"bitnet"));
    let file_type = find(file, entries, "general.file_type").and_then(|value| value.as_integer());
    if bitnet || file_type == Some(FILE_TYPE_TL2) { Family::BitNet } else { Family::Other }
}

fn find<'a>(file: &'a [u8], entries: &[Entry], key: &str) -> Option<Value<'a>> {
    entries.iter().find(|entry| entry.key == key)?.value(file)
}

/// Reads one tensor info; its offset is still the file's, counted from the start of the data.
fn read_tensor(
    path: &Path,
    r: &mut Reader<'_>,
    i: u64,
    family: Family,
    alignment: u64,
) -> Result<TensorInfo> {
    let name = text(r, MAX_NAME).map_err(|fault| fault.at(path, format!("tensor number {i}")))?;
    let item = || format!("tensor {name}");
    let (shape, id, offset) = read_shape(r).map_err(|fault| fault.at(path, item()))?;
    let unsupported = |reason| Error::Unsupported { path: path.to_owned(), item: item(), reason };
    let ty = TensorType::from_id(id, family)
        .ok_or_else(|| unsupported(format!("type {id} is unknown to this program; {AGAIN}")))?;
    if let Some(why) = ty.why_unknown() {
        return Err(unsupported(format!("type {} {why}; {AGAIN}", ty.spelled())));
    }
    let n_bytes = ty.n_bytes(&shape).ok_or_else(|| {
        let needs = ty.row_rule().unwrap_or_default();
        let ty = if ty == TensorType::MXFP4 { ty.spelled() } else { ty.to_string() };
        Fault::new(format!("{needs}, for type {ty}"), format!("shape {shape:?}")).at(path, item())
    })?;
    if !offset.is_multiple_of(alignment) {
        let expected = format!("an offset that is a multiple of {alignment}");
        return Err(Fault::new(expected, offset.to_string()).at(path, item()));
    }
    Ok(TensorInfo { name: name.to_owned(), ty, shape, shard: 0, offset, n_bytes })
}

/// Shape (outermost first), type number and offset.
fn read_shape(r: &mut Reader<'_>) -> Result<(Vec<usize>, u32, u64), Fault> {
    let n_dims = r.u32()?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(Fault::new(format!("1 to {MAX_DIMS} dimensions"), n_dims.to_string()));
    }
    let mut shape = Vec::new();
    let mut n_elements = 1u64;
    for _ in 0..n_dims {
        let dim = r.u64()?;
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(Fault::new(format!("dimensions of 1 to {MAX_DIM}"), dim.to_string()));
        }
        n_elements = n_elements
            .checked_mul(dim)
            .filter(|&n| n <= MAX_ELEMENTS)
            .ok_or_else(|| Fault::new(format!("at most {MAX_ELEMENTS} weights"), "more"))?;
        let dim = usize::try_from(dim)
            .map_err(|_| Fault::new("dimensions that fit this machine's addresses", dim.to_string()))?;
        shape.push(dim);
    }
    shape.reverse();
    Ok((shape, r.u32()?, r.u64()?))
}

/// Makes the offset one from the start of the file, if all the bytes are inside it.
fn place(info: &mut TensorInfo, data_offset: u64, file_len: u64) -> Result<(), Fault> {
    let start = data_offset.checked_add(info.offset);
    let end = start.and_then(|start| start.checked_add(info.n_bytes)).filter(|&end| end <= file_len);
    match (start, end) {
        (Some(start), Some(_)) => {
            info.offset = start;
            Ok(())
        }
        _ => Err(Fault::new(
            format!("{} bytes at offset {} of the tensor data{}", info.n_bytes, info.offset, doubt(info)),
            format!("{} bytes of tensor data", file_len.saturating_sub(data_offset)),
        )),
    }
}

/// What else a tensor may be whose size does not fit, in words that follow the size: TL2 is smaller than MXFP4.
fn doubt(info: &TensorInfo) -> String {
    match info.ty {
        TensorType::MXFP4 => format!(", as type {} has", info.ty.spelled()),
        _ => String::new(),
    }
}

fn check_overlap(path: &Path, tensors: &[TensorInfo]) -> Result<()> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|info| info.offset);
    for (a, b) in by_offset.iter().zip(by_offset.iter().skip(1)) {
        if a.offset.saturating_add(a.n_bytes) > b.offset {
            let expected = format!(
                "bytes of its own, after the {} bytes of {} at {}{}",
                a.n_bytes,
                a.name,
                a.offset,
                doubt(a)
            );
            return Err(
                Fault::new(expected, format!("offset {}", b.offset)).at(path, format!("tensor {}", b.name))
            );
        }
    }
    Ok(())
}
