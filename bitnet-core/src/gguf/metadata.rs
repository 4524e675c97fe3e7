//! Keys and values of a model, and getters that name the file and the key when they fail.
//!
//! A getter reads the exact type, or, for integers, any integer type whose value fits. It never reinterprets:
//! `-1` is not `u64::MAX`, a `u32` is not a float.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::Blob;
use super::reader::{Fault, Reader};
use super::value::{Strings, Value, ValueType};
use crate::{Error, Result};

/// The metadata of a model.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    blob: Arc<Blob>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

/// A key, and where in the file its value stands.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) ty: ValueType,
    /// Strings and arrays with their lengths and element types.
    pub(super) range: Range<usize>,
}

impl Metadata {
    pub(super) fn new(path: PathBuf, blob: Arc<Blob>, entries: Vec<Entry>) -> Metadata {
        let index = entries.iter().enumerate().map(|(i, entry)| (entry.key.clone(), i)).collect();
        Metadata { path, blob, entries, index }
    }

    /// The file these are from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.entries.get(*self.index.get(key)?)?)
    }

    /// All keys and values, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().filter_map(|entry| Some((entry.key.as_str(), self.value(entry)?)))
    }

    /// An integer of any type that is not negative.
    ///
    /// # Errors
    /// If the key holds something else; a missing key is `None`. So with every getter.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "an integer of at least 0", |value| value.as_integer()?.try_into().ok())
    }

    /// An integer of any type that counts something.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "an integer of at least 0", |value| value.as_integer()?.try_into().ok())
    }

    /// An `f32`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.read(key, "an f32", |value| if let Value::F32(v) = value { Some(v) } else { None })
    }

    /// A bool.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "a bool", |value| if let Value::Bool(v) = value { Some(v) } else { None })
    }

    /// A string of valid UTF-8.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a string of valid UTF-8", |value| match value {
            Value::Str(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// An array of strings, each as its bytes.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>> {
        self.read(key, "an array of strings", |value| match value {
            Value::Array(array) => array.strings(),
            _ => None,
        })
    }

    /// An array of `f32`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.read(key, "an array of f32", |value| match value {
            Value::Array(array) => {
                array.iter().map(|v| if let Value::F32(v) = v { Some(v) } else { None }).collect()
            }
            _ => None,
        })
    }

    /// An array of integers that fit an `i32`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.read(key, "an array of integers that fit an i32", integers)
    }

    /// An array of integers that are not negative.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn u64s(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.read(key, "an array of integers of at least 0", integers)
    }

    /// A count for each of `n` layers, written as an array of `n` or as one number that holds for all.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn usize_per_layer(&self, key: &str, n: usize) -> Result<Option<Vec<usize>>> {
        let expected = format!("an integer of at least 0, or an array of {n}");
        self.read(key, &expected, |value| match value {
            Value::Array(array) if array.len() == n => integers(value),
            Value::Array(_) => None,
            one => Some(vec![one.as_integer()?.try_into().ok()?; n]),
        })
    }

    /// The error for a key that must be there and is not.
    #[must_use]
    pub fn missing(&self, key: &str, expected: &str) -> Error {
        Fault::new(expected, "no such key").at(&self.path, format!("metadata key {key}"))
    }

    /// The error for a key whose value makes no sense: `expected` says what would have.
    #[must_use]
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        let Some(value) = self.get(key) else { return self.missing(key, expected) };
        let found = match value {
            Value::Array(array) => format!("an array of {} {}", array.len(), array.elem_type().name()),
            _ => format!("{} {value}", value.ty().name()),
        };
        Fault::new(expected, found).at(&self.path, format!("metadata key {key}"))
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                None => Err(self.wrong(key, expected)),
                some => Ok(some),
            },
        }
    }

    fn value(&self, entry: &Entry) -> Option<Value<'_>> {
        entry.value(self.blob.bytes())
    }
}

impl Entry {
    /// Decodes the value from the bytes of the file it was scanned in.
    pub(super) fn value<'a>(&self, file: &'a [u8]) -> Option<Value<'a>> {
        Value::reread(&mut Reader::new(file.get(self.range.clone())?), self.ty)
    }
}

fn integers<T: TryFrom<i128>>(value: Value<'_>) -> Option<Vec<T>> {
    let Value::Array(array) = value else { return None };
    array.iter().map(|v| v.as_integer()?.try_into().ok()).collect()
}
