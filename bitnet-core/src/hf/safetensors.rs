//! safetensors, the container of Hugging Face weights: one file, or several that an index names.
//!
//! ```text
//! u64        length n of the header, little-endian
//! n bytes    JSON: { name: { "dtype": "BF16", "shape": [..], "data_offsets": [begin, end] }, ..,
//!                    "__metadata__": { .. } }
//! data       offsets count from here; the tensors fill it without a gap
//! ```
//!
//! Nothing in a file is believed: when [`Safetensors::open`] returns, every name, shape and range has been checked
//! against the file's length, and a read cannot leave its tensor. Tensors are read in pieces, never as a whole file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde_json::value::RawValue;

use super::object::{Object, malformed};
use crate::error::{Error, Result};
use crate::quant::dense::DenseType;

/// Headers of real files have some hundred bytes for each tensor.
const MAX_HEADER: u64 = 16 << 20;
/// The largest real checkpoints have some hundred files.
const MAX_FILES: usize = 256;
const MAX_NAME: usize = 512;
const MAX_DIMS: usize = 8;

/// The number format of a tensor, as far as this engine reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    /// Floats.
    Dense(DenseType),
    /// Bytes.
    U8,
    /// Anything else.
    Other,
}

/// Every format there is, by name: what we read it as, and its bytes.
const DTYPES: [(&str, Dtype, u64); 15] = [
    ("F32", Dtype::Dense(DenseType::F32), 4),
    ("F16", Dtype::Dense(DenseType::F16), 2),
    ("BF16", Dtype::Dense(DenseType::BF16), 2),
    ("U8", Dtype::U8, 1),
    ("I8", Dtype::Other, 1),
    ("BOOL", Dtype::Other, 1),
    ("F8_E4M3", Dtype::Other, 1),
    ("F8_E5M2", Dtype::Other, 1),
    ("I16", Dtype::Other, 2),
    ("U16", Dtype::Other, 2),
    ("I32", Dtype::Other, 4),
    ("U32", Dtype::Other, 4),
    ("I64", Dtype::Other, 8),
    ("U64", Dtype::Other, 8),
    ("F64", Dtype::Other, 8),
];

/// All tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Safetensors {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    shard: usize,
    pub(super) dtype: Dtype,
    /// The format's name in the file.
    pub(super) dtype_name: &'static str,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// From the start of the file.
    start: u64,
    n_bytes: u64,
}

impl Safetensors {
    /// Opens `model.safetensors`, or all files that `model.safetensors.index.json` names, and checks their headers.
    pub(super) fn open(dir: &Path) -> Result<Safetensors> {
        let mut all = Safetensors { shards: Vec::new(), tensors: BTreeMap::new() };
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() {
            all.add(&single)?;
        } else if index.exists() {
            all.add_indexed(dir, &index)?;
        } else {
            let found = if dir.join("pytorch_model.bin").exists() {
                "pytorch_model.bin, a pickle, which is a program and is not run here"
            } else {
                "neither"
            };
            let expected = "model.safetensors or model.safetensors.index.json";
            return Err(malformed(dir, "weights", expected, found));
        }
        Ok(all)
    }

    fn add_indexed(&mut self, dir: &Path, index: &Path) -> Result<()> {
        let object = Object::read(index, MAX_HEADER)?;
        let map = object.object("weight_map")?;
        let map = map.ok_or_else(|| object.wrong("weight_map", "an object of tensor and file names"))?;
        let mut wanted = BTreeMap::new();
        for (tensor, file) in map.keys_and_values() {
            let file = file.as_str().filter(|name| is_plain_name(name));
            let expected = "the name of a .safetensors file in the same directory";
            wanted.insert(tensor, file.ok_or_else(|| map.wrong(tensor, expected))?);
        }
        let files: BTreeSet<&str> = wanted.values().copied().collect();
        if files.is_empty() || files.len() > MAX_FILES {
            let expected = format!("names of 1 to {MAX_FILES} files");
            return Err(malformed(index, "key weight_map", &expected, &files.len().to_string()));
        }
        for file in files {
            self.add(&dir.join(file))?;
        }
        for (tensor, file) in wanted {
            let home = self.tensors.get(tensor).map(|entry| &self.shards[entry.shard].path);
            if home.is_none_or(|home| home.file_name() != Some(file.as_ref())) {
                let expected = format!("a tensor in {file}");
                return Err(malformed(index, &format!("tensor {tensor}"), &expected, "none there"));
            }
        }
        Ok(())
    }

    /// Adds one file.
    fn add(&mut self, path: &Path) -> Result<()> {
        let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
        // Asked before opening, because opening a pipe waits for its other end.
        if !fs::metadata(path).map_err(io("open"))?.is_file() {
            return Err(malformed(path, "weights", "a regular file", "a directory, a pipe or a device"));
        }
        let mut file = File::open(path).map_err(io("open"))?;
        let file_len = file.metadata().map_err(io("open"))?.len();
        let Some(after_length) = file_len.checked_sub(8) else {
            return Err(malformed(path, "file size", "at least 8 bytes", &file_len.to_string()));
        };
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(io("read"))?;
        let header_len = u64::from_le_bytes(length);
        if header_len > after_length.min(MAX_HEADER) {
            let expected = format!("at most {} bytes", after_length.min(MAX_HEADER));
            return Err(malformed(path, "length of the header", &expected, &header_len.to_string()));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(io("read"))?;

        let data_len = after_length - header_len;
        let shard = self.shards.len();
        let mut ranges = Vec::new();
        for (name, raw) in parse_object(path, "header", &header)? {
            if name == "__metadata__" {
                continue;
            }
            if name.is_empty() || name.len() > MAX_NAME {
                let expected = format!("tensor names of 1 to {MAX_NAME} bytes");
                return Err(malformed(path, "header", &expected, &name.len().to_string()));
            }
            let mut entry = entry(path, &name, &raw, data_len)?;
            ranges.push((entry.start, entry.n_bytes, name.clone()));
            entry.shard = shard;
            entry.start += 8 + header_len;
            if self.tensors.contains_key(&name) {
                let item = format!("tensor {name}");
                return Err(malformed(path, &item, "a name in one file only", "the same in another"));
            }
            self.tensors.insert(name, entry);
        }
        check_cover(path, ranges, data_len)?;
        self.shards.push(Shard { path: path.to_owned(), file });
        Ok(())
    }

    /// The files of the weights.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// Every name, in alphabetical order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    /// The file that holds a tensor; without one, the first.
    pub(super) fn path_of(&self, name: &str) -> &Path {
        let shard = self.tensors.get(name).map_or(0, |entry| entry.shard);
        self.shards.get(shard).map_or(Path::new(""), |shard| &shard.path)
    }

    /// Reads bytes `at..at + buffer.len()` of a tensor.
    ///
    /// # Panics
    /// If that is not inside the tensor.
    pub(super) fn read(&self, entry: &Entry, at: u64, buffer: &mut [u8]) -> Result<()> {
        let end = at.checked_add(buffer.len() as u64);
        assert!(end.is_some_and(|end| end <= entry.n_bytes), "{} bytes at {at}", buffer.len());
        let Shard { path, file } = &self.shards[entry.shard];
        let mut file = file;
        file.seek(SeekFrom::Start(entry.start + at))
            .and_then(|_| file.read_exact(buffer))
            .map_err(|source| Error::Io { path: path.clone(), action: "read", source })
    }

    /// Whether two tensors of one shape and format hold the same bytes.
    pub(super) fn same_bytes(&self, a: &Entry, b: &Entry) -> Result<bool> {
        if a.n_bytes != b.n_bytes || a.dtype != b.dtype {
            return Ok(false);
        }
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = 0;
        while at < a.n_bytes {
            let n = (a.n_bytes - at).min(left.len() as u64) as usize;
            self.read(a, at, &mut left[..n])?;
            self.read(b, at, &mut right[..n])?;
            if left[..n] != right[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    }
}

/// Whether `name` is a file in the same directory on any system, and cannot lead out of it.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    single && !name.contains(['/', '\\', ':', '\0']) && name.ends_with(".safetensors")
}

/// The members of a JSON object, each still as text.
fn parse_object(path: &Path, item: &str, json: &[u8]) -> Result<BTreeMap<String, Box<RawValue>>> {
    serde_json::from_slice(json).map_err(|error| malformed(path, item, "a JSON object", &error.to_string()))
}

/// Reads what the header says of one tensor; `start` still counts from the start of the data.
fn entry(path: &Path, name: &str, raw: &RawValue, data_len: u64) -> Result<Entry> {
    let item = format!("tensor {name}");
    let wrong = |expected: &str, found: &str| malformed(path, &item, expected, found);
    let members = parse_object(path, &item, raw.get().as_bytes())?;
    let member = |key: &str| members.get(key).map_or("null", |raw| raw.get());

    let dtype: Option<String> = serde_json::from_str(member("dtype")).ok();
    let known = DTYPES.iter().find(|(known, ..)| Some(*known) == dtype.as_deref());
    let Some(&(dtype_name, dtype, size)) = known else {
        return Err(wrong("a known dtype", &brief(member("dtype"))));
    };
    let shape: Option<Vec<u64>> = serde_json::from_str(member("shape")).ok();
    let shape: Option<Vec<usize>> = shape
        .filter(|shape| shape.len() <= MAX_DIMS)
        .and_then(|shape| shape.into_iter().map(|dim| usize::try_from(dim).ok()).collect());
    let Some(shape) = shape else {
        return Err(wrong("a shape of non-negative integers", &brief(member("shape"))));
    };
    let offsets: Option<[u64; 2]> = serde_json::from_str(member("data_offsets")).ok();
    let Some([begin, end]) = offsets.filter(|[begin, end]| begin <= end && *end <= data_len) else {
        let expected = format!("data_offsets within the {data_len} bytes of data");
        return Err(wrong(&expected, &brief(member("data_offsets"))));
    };
    let n_bytes = shape.iter().try_fold(size, |n, &dim| n.checked_mul(dim as u64));
    if n_bytes != Some(end - begin) {
        let expected = n_bytes.map_or("a shape that can be counted".into(), |n| {
            format!("{n} bytes for {dtype_name} {shape:?}")
        });
        return Err(wrong(&expected, &(end - begin).to_string()));
    }
    Ok(Entry { shard: 0, dtype, dtype_name, shape, start: begin, n_bytes: end - begin })
}

/// A piece of a header in an error text.
fn brief(json: &str) -> String {
    match json.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &json[..end]),
        None if json == "null" => "nothing".to_owned(),
        None => json.to_owned(),
    }
}

/// The format wants every byte of the data in exactly one tensor, which rules out overlaps, and names given twice.
fn check_cover(path: &Path, mut ranges: Vec<(u64, u64, String)>, data_len: u64) -> Result<()> {
    ranges.sort_unstable();
    let mut at = 0;
    for (start, n_bytes, name) in ranges {
        if start != at {
            let fault = if start < at { "which overlaps another tensor" } else { "after a gap" };
            let item = format!("tensor {name}");
            return Err(malformed(path, &item, &format!("data from {at}"), &format!("{start}, {fault}")));
        }
        at += n_bytes;
    }
    if at == data_len {
        return Ok(());
    }
    let expected = format!("{at} bytes, the tensors together");
    Err(malformed(path, "size of the data", &expected, &data_len.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_the_same_directory_are_followed() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in [
            "",
            ".",
            "..",
            "../model.safetensors",
            "a/model.safetensors",
            "/model.safetensors",
            "..\\model.safetensors",
            "C:model.safetensors",
            "./model.safetensors",
            "model.safetensors/",
            "model.bin",
            "x\0.safetensors",
        ] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
