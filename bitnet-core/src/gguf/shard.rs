//! Opening a model: one file, or the first of several that `split.count` announces.
//!
//! Shards are called `<prefix>-00001-of-00003.gguf`, numbered from 1; inside, `split.no` counts from 0. Only the
//! first carries the model's metadata. Each has its own alignment and its own start of data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{self, Header, family_of};
use super::map::{Access, Blob};
use super::reader::Fault;
use super::{Gguf, GgufWriter, Metadata, TensorWriter};
use crate::{Error, Result};

const MAX_SHARDS: u64 = 999;

pub(super) fn open(path: &Path, access: Access) -> Result<Gguf> {
    let blob = Arc::new(Blob::open(path, access)?);
    let first = header::parse(path, blob.bytes(), None)?;
    let family = family_of(blob.bytes(), &first.entries);
    let mut gguf = Gguf::from_first(path, blob, first);

    let meta = gguf.metadata();
    let Some(count) = meta.u64("split.count")?.filter(|&count| count > 1) else { return Ok(gguf) };
    if count > MAX_SHARDS {
        return Err(meta.wrong("split.count", &format!("at most {MAX_SHARDS}")));
    }
    if meta.u64("split.no")? != Some(0) {
        let expected = format!("0: open the first shard, {}-of-{count:05}.gguf", "*-00001");
        return Err(meta.wrong("split.no", &expected));
    }
    let n_tensors = meta
        .u64("split.tensors.count")?
        .ok_or_else(|| meta.missing("split.tensors.count", "the number of tensors in all shards"))?;
    let prefix = prefix(path, count)?;

    for no in 1..count {
        let path = PathBuf::from(format!("{prefix}{}", suffix(no.saturating_add(1), count)));
        let blob = Arc::new(Blob::open(&path, access).map_err(|e| missing(e, no, count))?);
        let Header { version, entries, tensors, data_offset, alignment } =
            header::parse(&path, blob.bytes(), Some(family))?;
        let meta = Metadata::new(path.clone(), Arc::clone(&blob), entries);
        if meta.u64("split.no")? != Some(no) {
            return Err(meta.wrong("split.no", &no.to_string()));
        }
        if meta.u64("split.count")?.is_some_and(|c| c != count) {
            return Err(meta.wrong("split.count", &format!("{count}, as in the first shard")));
        }
        gguf.append(&path, blob, Header { version, entries: Vec::new(), tensors, data_offset, alignment })?;
    }
    if gguf.tensors().len() as u64 != n_tensors {
        let expected = format!("{}, the tensors found in {count} shards", gguf.tensors().len());
        return Err(gguf.metadata().wrong("split.tensors.count", &expected));
    }
    Ok(gguf)
}

/// The model in `bytes`, called `name` in messages.
pub(super) fn from_static(name: &Path, bytes: &'static [u8]) -> Result<Gguf> {
    let blob = Arc::new(Blob::Static(bytes));
    let header = header::parse(name, blob.bytes(), None)?;
    let gguf = Gguf::from_first(name, blob, header);
    match gguf.metadata().u64("split.count")? {
        Some(count) if count > 1 => Err(gguf.metadata().wrong("split.count", "1: there is no other shard")),
        _ => Ok(gguf),
    }
}

/// The model that `writer` and `fill` make, called `name` in messages.
pub(super) fn in_memory(
    name: &Path,
    writer: GgufWriter,
    fill: impl FnOnce(&mut TensorWriter<&mut [u8]>) -> Result<()>,
) -> Result<Gguf> {
    let len = writer.file_len().ok_or_else(|| Error::Refused {
        what: format!("memory for {}", name.display()),
        reason: Some("the tensors together exceed this machine's addresses".into()),
    })?;
    let blob = Blob::fill(name, len, |bytes| {
        let mut out = writer.write(name, bytes)?;
        fill(&mut out)?;
        out.finish().map(drop)
    })?;
    let blob = Arc::new(blob);
    let header = header::parse(name, blob.bytes(), None)?;
    Ok(Gguf::from_first(name, blob, header))
}

fn suffix(number: u64, count: u64) -> String {
    format!("-{number:05}-of-{count:05}.gguf")
}

/// The path without the suffix that the first of `count` shards must have.
fn prefix(path: &Path, count: u64) -> Result<String> {
    let suffix = suffix(1, count);
    let wrong = || {
        let expected = format!("a name that ends in {suffix}, since split.count is {count}");
        Fault::new(expected, path.display().to_string()).at(path, "file name")
    };
    path.to_str().and_then(|text| text.strip_suffix(&suffix)).map(str::to_owned).ok_or_else(wrong)
}

/// A shard that is not there: the system's reason stays, and what it was wanted for is added.
fn missing(error: Error, no: u64, count: u64) -> Error {
    match error {
        Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let found = source.to_string();
            let item = format!("shard {} of {count}", no.saturating_add(1));
            Fault::new("a file beside the first shard", found).at(&path, item)
        }
        other => other,
    }
}
