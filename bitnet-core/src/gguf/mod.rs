//! GGUF, the container of the models: bytes to metadata and tensor directory, and back.
//!
//! ```text
//! offset 0   "GGUF"   version: u32   n_tensors: u64   n_kv: u64        24 bytes, little-endian
//!            n_kv      x  key: string, type: u32, value
//!            n_tensors x  name: string, n_dims: u32, n_dims x dim: u64, type: u32, offset: u64
//!            zeros up to a multiple of the alignment (general.alignment, else 32)
//! data       tensor bytes; each `offset` counts from here
//! ```
//!
//! A string is a `u64` length and that many bytes. Dimensions stand innermost first in the file and are
//! turned round here, once: a [`TensorInfo::shape`] is `[rows, cols]`.
//!
//! Nothing in a file is believed. [`Gguf::open`] reads only the header, and when it returns, every length,
//! count, type, name and byte range has been checked; what comes later cannot leave the file's bytes. What the
//! metadata *mean* is for `model` and `tokenizer` to judge.
//!
//! Start at `header` for the checks, at [`Metadata`] for reading values, at [`GgufWriter`] for writing.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod header;
mod map;
mod metadata;
mod reader;
mod replace;
mod shard;
mod tensor;
mod value;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use map::Access;
pub use metadata::Metadata;
pub use replace::{Target, replace_file, replace_file_if};
pub use tensor::{Tensor, TensorInfo, TensorType};
pub use value::{Array, Strings, Value, ValueType, Values};
pub use writer::{ArrayBuf, GgufWriter, TensorWriter};

use crate::{Error, Result};
use header::Header;
use map::Blob;

/// One model: a file, or all shards of one.
///
/// The bytes are shared and immutable; a `Gguf` can be read from any number of threads.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    shards: Vec<Shard>,
}

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub file_len: u64,
    /// The container's version, 2 or 3 (they are the same bytes).
    pub version: u32,
    /// Where its tensor data begin, in bytes from the start of the file.
    pub data_offset: u64,
    /// What the start of every tensor is a multiple of, counted from `data_offset`.
    pub alignment: u64,
    blob: Arc<Blob>,
}

impl Gguf {
    /// Opens a model and checks its header; tensor data stay untouched on the disk with [`Access::Map`].
    ///
    /// The first of several shards (`name-00001-of-00003.gguf`) opens them all.
    ///
    /// # Errors
    /// If a file cannot be read, or is not a sound GGUF file: the error names the file, the item in it, what was
    /// expected there and what was found.
    pub fn open(path: &Path, access: Access) -> Result<Gguf> {
        shard::open(path, access)
    }

    /// A model that is part of the program: `bytes` are a whole GGUF file, `name` stands for its path in messages.
    ///
    /// It is checked like any file. Wide types are used in place if `bytes` start at a multiple of the file's
    /// alignment (an array in a `#[repr(align(64))]` struct does); else their values are copied at load.
    ///
    /// # Errors
    /// If the bytes are not a sound GGUF file, or are the first of several shards.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf> {
        shard::from_static(Path::new(name), bytes)
    }

    /// A model written into memory: what `writer` describes, with the tensors that `fill` hands over. `name` stands
    /// for its path in messages.
    ///
    /// # Errors
    /// If there is not enough memory, or `fill` fails or leaves a tensor out.
    pub fn in_memory(
        name: &Path,
        writer: GgufWriter,
        fill: impl FnOnce(&mut TensorWriter<&mut [u8]>) -> Result<()>,
    ) -> Result<Gguf> {
        shard::in_memory(name, writer, fill)
    }

    /// The path this model was opened by: its file, or its first shard.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.metadata.path()
    }

    /// The model's keys and values: those of the first shard.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in file order, the shards one after the other.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, with its bytes.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let info = self.tensors.get(*self.index.get(name)?)?;
        Some(Tensor { info, bytes: self.bytes_of(info)? })
    }

    /// Tells the kernel that a tensor's bytes are not needed any more, so that their memory can serve others.
    ///
    /// The bytes stay readable: whoever looks again reads them from the file again. With [`Access::Read`] there is
    /// nothing to fall back on, and the bytes stay. A tensor of another model is none of ours and changes nothing.
    pub fn release(&self, info: &TensorInfo) {
        if let (Some(shard), Some(range)) = (self.shards.get(info.shard), info.byte_range()) {
            shard.blob.release(range);
        }
    }

    /// The files of the model, in order; one, unless it is sharded.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The size of all files together, in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.saturating_add(shard.file_len))
    }

    /// The container's version, 2 or 3 (of the first shard).
    #[must_use]
    pub fn version(&self) -> u32 {
        self.shards.first().map_or(0, |shard| shard.version)
    }

    /// Where the tensor data begin, in bytes from the start of the file (of the first shard).
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.shards.first().map_or(0, |shard| shard.data_offset)
    }

    /// What the start of every tensor is a multiple of (in the first shard).
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.shards.first().map_or(0, |shard| shard.alignment)
    }

    /// The bytes of one of this model's tensors; `None` for a tensor of another model that lies elsewhere.
    #[must_use]
    pub fn bytes_of(&self, info: &TensorInfo) -> Option<&[u8]> {
        self.shards.get(info.shard)?.blob.bytes().get(info.byte_range()?)
    }

    /// Puts a model together from the checked header of its first file.
    fn from_first(path: &Path, blob: Arc<Blob>, header: Header) -> Gguf {
        let metadata = Metadata::new(path.to_owned(), Arc::clone(&blob), header.entries);
        let shard = Shard {
            path: path.to_owned(),
            file_len: blob.bytes().len() as u64,
            version: header.version,
            data_offset: header.data_offset,
            alignment: header.alignment,
            blob,
        };
        let index = header.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Gguf { metadata, tensors: header.tensors, index, shards: vec![shard] }
    }

    /// Adds the checked header of one more shard.
    fn append(&mut self, path: &Path, blob: Arc<Blob>, header: Header) -> Result<()> {
        for mut info in header.tensors {
            info.shard = self.shards.len();
            if let Some(first) = self.index.get(&info.name).and_then(|&i| self.tensors.get(i)) {
                let home = self.shards.get(first.shard).map_or(self.path(), |shard| &shard.path);
                return Err(Error::Malformed {
                    path: path.to_owned(),
                    item: format!("tensor {}", info.name),
                    expected: "a name that no other shard uses".into(),
                    found: format!("the same name in {}", home.display()),
                });
            }
            self.index.insert(info.name.clone(), self.tensors.len());
            self.tensors.push(info);
        }
        self.shards.push(Shard {
            path: path.to_owned(),
            file_len: blob.bytes().len() as u64,
            version: header.version,
            data_offset: header.data_offset,
            alignment: header.alignment,
            blob,
        });
        Ok(())
    }
}
