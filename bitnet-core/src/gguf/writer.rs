//! Writing a model: metadata, then the tensors' names and shapes, then their bytes, streamed.
//!
//! ```no_run
//! # use bitnet_core::gguf::{GgufWriter, TensorType, Value};
//! # use std::path::Path;
//! # fn main() -> bitnet_core::Result<()> {
//! let mut writer = GgufWriter::new();
//! writer.set("general.architecture", Value::Str(b"bitnet-b1.58"))?;
//! writer.declare("output_norm.weight", TensorType::F32, &[2560])?;
//! writer.write_file(Path::new("model.gguf"), |out| out.tensor("output_norm.weight", &[0; 4 * 2560]))
//! # }
//! ```

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::header::{DEFAULT_ALIGNMENT, is_alignment};
use super::reader::Reader;
use super::replace::{Target, replace_file_if};
use super::tensor::TensorType;
use super::value::{Array, Value, ValueType, write_string};
use crate::{Error, Result};

/// A model to be written: set metadata, declare every tensor, then [`write`](GgufWriter::write).
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    /// Keys with their encoded type and value, in the order they were first set.
    entries: Vec<(String, Vec<u8>)>,
    /// Where each key is among them.
    index: HashMap<String, usize>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
    alignment: Option<u32>,
}

#[derive(Clone, Debug)]
struct Declared {
    name: String,
    ty: TensorType,
    shape: Vec<usize>,
    n_bytes: u64,
}

impl GgufWriter {
    /// A model without metadata and tensors.
    #[must_use]
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// Sets a key, or sets it anew. `general.alignment` takes effect, too.
    ///
    /// # Errors
    /// If the key is empty, too long or holds a zero byte, an alignment is not a power of two up to 65 536, or
    /// a string is longer than readers accept.
    pub fn set(&mut self, key: &str, value: Value<'_>) -> Result<()> {
        let invalid =
            |reason: &str| Error::Invalid { what: format!("metadata key {key:?}"), reason: reason.into() };
        if key.is_empty() || key.len() > 65_535 || key.contains('\0') {
            return Err(invalid("expected 1 to 65535 bytes without a zero byte"));
        }
        if key == "general.alignment" {
            match value {
                Value::U32(v) if is_alignment(v) => self.alignment = Some(v),
                _ => return Err(invalid("expected a u32 that is a power of two and at most 65536")),
            }
        }
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        Value::read(&mut Reader::new(&bytes), value.ty()).map_err(|fault| invalid(&fault.to_string()))?;
        let mut encoded = value.ty().id().to_le_bytes().to_vec();
        encoded.extend(bytes);
        match self.index.get(key).and_then(|&at| self.entries.get_mut(at)) {
            Some((_, old)) => *old = encoded,
            None => {
                self.index.insert(key.to_owned(), self.entries.len());
                self.entries.push((key.to_owned(), encoded));
            }
        }
        Ok(())
    }

    /// Declares the next tensor; bytes will be wanted in the order of declaration.
    ///
    /// # Errors
    /// If the name is empty, longer than 63 bytes or taken, or there is no such tensor of that type.
    pub fn declare(&mut self, name: &str, ty: TensorType, shape: &[usize]) -> Result<()> {
        let invalid = |reason: String| Error::Invalid { what: format!("tensor {name:?}"), reason };
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(invalid("expected a name of 1 to 63 bytes without a zero byte".into()));
        }
        if !(1..=4).contains(&shape.len()) {
            return Err(invalid(format!("expected 1 to 4 dimensions, found shape {shape:?}")));
        }
        let n_bytes = ty.n_bytes(shape).filter(|&n| n > 0).ok_or_else(|| {
            let needs = ty.row_rule().unwrap_or_else(|| "a type that can be written".into());
            invalid(format!("expected {needs}, found shape {shape:?} of type {ty}"))
        })?;
        if !self.names.insert(name.to_owned()) {
            return Err(invalid("a tensor of this name was declared already".into()));
        }
        self.tensors.push(Declared { name: name.to_owned(), ty, shape: shape.to_vec(), n_bytes });
        Ok(())
    }

    /// The bytes of all tensors together, padding not counted: for a progress display.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.n_bytes))
    }

    /// The size of the whole file; `None` if the tensors together exceed this machine's addresses.
    #[must_use]
    pub fn file_len(&self) -> Option<usize> {
        let alignment = self.alignment();
        let (header, data) = self.header().ok()?;
        let start = (header.len() as u64).checked_next_multiple_of(alignment)?;
        usize::try_from(start.checked_add(data)?).ok()
    }

    fn alignment(&self) -> u64 {
        self.alignment.map_or(DEFAULT_ALIGNMENT, u64::from)
    }

    /// The header's bytes without padding, and how many bytes of tensors follow, padding included.
    fn header(&self) -> Result<(Vec<u8>, u64)> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            write_string(&mut header, key.as_bytes());
            header.extend(value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            write_string(&mut header, tensor.name.as_bytes());
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.ty.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(tensor.n_bytes)
                .and_then(|end| end.checked_next_multiple_of(self.alignment()))
                .ok_or_else(|| Error::Invalid {
                    what: format!("tensor {}", tensor.name),
                    reason: "the tensors together exceed 64-bit offsets".into(),
                })?;
        }
        Ok((header, offset))
    }

    /// Writes the header and returns what takes the tensors. `path` names the sink in error texts.
    ///
    /// # Errors
    /// If the sink does not take the bytes, or the tensors together exceed 64-bit offsets.
    pub fn write<W: Write>(self, path: &Path, sink: W) -> Result<TensorWriter<W>> {
        let (header, _) = self.header()?;
        let mut out = TensorWriter {
            sink,
            path: path.to_owned(),
            alignment: self.alignment(),
            tensors: self.tensors.into_iter(),
            current: None,
            position: 0,
        };
        out.put(&header)?;
        out.pad()?;
        out.current = out.tensors.next().map(|t| (t.n_bytes, t));
        Ok(out)
    }

    /// Writes a whole file through `fill`, which hands over every tensor; see
    /// [`replace_file`](super::replace_file).
    ///
    /// # Errors
    /// If `fill` fails or leaves a tensor out, or the system refuses. The file is then as it was before.
    pub fn write_file<'a>(
        self,
        target: impl Into<Target<'a>>,
        fill: impl FnOnce(&mut TensorWriter<&mut BufWriter<File>>) -> Result<()>,
    ) -> Result<()> {
        self.write_file_if(target, fill, |_| Ok(()))
    }

    /// The same, kept only if `check` approves of what was written; see [`replace_file_if`].
    ///
    /// # Errors
    /// Also if `check` fails.
    pub fn write_file_if<'a>(
        self,
        target: impl Into<Target<'a>>,
        fill: impl FnOnce(&mut TensorWriter<&mut BufWriter<File>>) -> Result<()>,
        check: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let target = target.into();
        let fill = |file: &mut _| {
            let mut out = self.write(target.path, file)?;
            fill(&mut out)?;
            out.finish().map(drop)
        };
        replace_file_if(target, fill, check)
    }
}

/// Takes the bytes of the declared tensors, in order, and pads between them.
#[derive(Debug)]
pub struct TensorWriter<W: Write> {
    sink: W,
    path: PathBuf,
    alignment: u64,
    tensors: std::vec::IntoIter<Declared>,
    /// The tensor being written, and how many of its bytes are still wanted.
    current: Option<(u64, Declared)>,
    position: u64,
}

impl<W: Write> TensorWriter<W> {
    /// Writes a whole tensor.
    ///
    /// # Errors
    /// If it is not this tensor's turn, the number of bytes is not the declared one, or the sink refuses.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let (due, wanted) = match &self.current {
            Some((left, t)) if *left == t.n_bytes => (t.name.as_str(), format!("{} bytes", t.n_bytes)),
            Some((left, t)) => (t.name.as_str(), format!("the {left} bytes still missing")),
            None => ("", String::new()),
        };
        let fits =
            self.current.as_ref().is_some_and(|(left, t)| *left == t.n_bytes && *left == bytes.len() as u64);
        if due != name || !fits {
            let reason = if due.is_empty() {
                "every declared tensor was written already".into()
            } else {
                format!("expected {wanted} for tensor {due}, found {} for {name}", bytes.len())
            };
            return Err(Error::Invalid { what: format!("tensor {name}"), reason });
        }
        self.chunk(bytes)
    }

    /// Writes the next bytes of the tensor whose turn it is; the last of them move on to the next tensor.
    ///
    /// # Errors
    /// If these are more bytes than the tensor still wants, or the sink refuses.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((left, tensor)) = self.current.take() else {
            if bytes.is_empty() {
                return Ok(());
            }
            let reason =
                format!("expected nothing after the last declared tensor, found {} bytes", bytes.len());
            return Err(Error::Invalid { what: "tensor data".into(), reason });
        };
        let Some(after) = left.checked_sub(bytes.len() as u64) else {
            let reason = format!("expected at most {left} more bytes, found {}", bytes.len());
            return Err(Error::Invalid { what: format!("tensor {}", tensor.name), reason });
        };
        self.put(bytes)?;
        if after > 0 {
            self.current = Some((after, tensor));
        } else {
            self.pad()?;
            self.current = self.tensors.next().map(|t| (t.n_bytes, t));
        }
        Ok(())
    }

    /// Checks that every tensor was written, flushes, and gives the sink back.
    ///
    /// # Errors
    /// If a tensor is missing or incomplete, or the sink refuses.
    pub fn finish(mut self) -> Result<W> {
        if let Some((left, tensor)) = &self.current {
            let reason = format!("{left} of its {} bytes were not written", tensor.n_bytes);
            return Err(Error::Invalid { what: format!("tensor {}", tensor.name), reason });
        }
        self.sink.flush().map_err(|source| Error::Io { path: self.path, action: "write", source })?;
        Ok(self.sink)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.position = self.position.saturating_add(bytes.len() as u64);
        self.sink.write_all(bytes).map_err(|source| Error::Io {
            path: self.path.clone(),
            action: "write",
            source,
        })
    }

    fn pad(&mut self) -> Result<()> {
        const ZEROS: [u8; 256] = [0; 256];
        let end = self.position.checked_next_multiple_of(self.alignment).unwrap_or(self.position);
        while let Some(left) = end.checked_sub(self.position).filter(|&left| left > 0) {
            let n = usize::try_from(left).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.put(ZEROS.get(..n).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }
}

/// The encoded elements of an array value, to be lent to [`GgufWriter::set`].
///
/// ```
/// # use bitnet_core::gguf::{ArrayBuf, GgufWriter};
/// let mut writer = GgufWriter::new();
/// writer.set("tokenizer.ggml.tokens", ArrayBuf::strings(["a", "b"]).value())?;
/// # Ok::<(), bitnet_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ArrayBuf {
    elem: ValueType,
    count: usize,
    bytes: Vec<u8>,
}

impl ArrayBuf {
    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> ArrayBuf {
        let mut array = ArrayBuf { elem: ValueType::Str, count: 0, bytes: Vec::new() };
        for item in items {
            write_string(&mut array.bytes, item.as_ref());
            array.count = array.count.saturating_add(1);
        }
        array
    }

    /// An array of `f32`.
    pub fn f32s(items: impl IntoIterator<Item = f32>) -> ArrayBuf {
        ArrayBuf::values(ValueType::F32, items.into_iter().map(Value::F32)).expect("all are f32")
    }

    /// An array of `i32`.
    pub fn i32s(items: impl IntoIterator<Item = i32>) -> ArrayBuf {
        ArrayBuf::values(ValueType::I32, items.into_iter().map(Value::I32)).expect("all are i32")
    }

    /// An array of any values of one type; `None` if one has another type, or the type is array.
    pub fn values<'a>(elem: ValueType, items: impl IntoIterator<Item = Value<'a>>) -> Option<ArrayBuf> {
        let mut array = ArrayBuf { elem, count: 0, bytes: Vec::new() };
        for item in items {
            if item.ty() != elem || elem == ValueType::Array {
                return None;
            }
            item.write(&mut array.bytes);
            array.count = array.count.saturating_add(1);
        }
        Some(array)
    }

    /// The array as a value.
    #[must_use]
    pub fn value(&self) -> Value<'_> {
        Value::Array(Array::from_parts(self.elem, self.count, &self.bytes))
    }
}
