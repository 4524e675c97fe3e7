//! The small JSON files of a checkpoint, and getters that name file and key when they fail.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object and where it stands. `null` counts as absent, as everywhere in these files.
#[derive(Debug, Clone)]
pub(in crate::hf) struct Object<'a> {
    path: PathBuf,
    /// Keys above this object, each with a dot after it: `quantization_config.`
    prefix: String,
    map: Cow<'a, Map<String, Value>>,
}

impl Object<'static> {
    /// Reads a file that must be there, of at most `max_bytes`.
    pub(in crate::hf) fn read(path: &Path, max_bytes: u64) -> Result<Object<'static>> {
        let bytes = read_file(path, max_bytes)?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => {
                Ok(Object { path: path.to_owned(), prefix: String::new(), map: Cow::Owned(map) })
            }
            Ok(_) => Err(malformed(path, "file", "a JSON object", "another JSON value")),
            Err(error) => Err(malformed(path, "file", "a JSON object", &error.to_string())),
        }
    }

    /// Reads a file that may be missing.
    pub(in crate::hf) fn read_if_there(path: &Path, max_bytes: u64) -> Result<Option<Object<'static>>> {
        if path.exists() { Object::read(path, max_bytes).map(Some) } else { Ok(None) }
    }
}

impl Object<'_> {
    pub(in crate::hf) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(in crate::hf) fn keys_and_values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The object under `key`.
    pub(in crate::hf) fn object(&self, key: &str) -> Result<Option<Object<'_>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object {
                path: self.path.clone(),
                prefix: format!("{}{key}.", self.prefix),
                map: Cow::Borrowed(map),
            })),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    pub(in crate::hf) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read_as(key, "a string", Value::as_str)
    }

    pub(in crate::hf) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read_as(key, "true or false", Value::as_bool)
    }

    /// A number of things: at least one, at most `most`.
    pub(in crate::hf) fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        self.read_as(key, &format!("an integer from 1 to {most}"), |value| {
            usize::try_from(value.as_u64()?).ok().filter(|n| (1..=most).contains(n))
        })
    }

    /// A number of things that must be there.
    pub(in crate::hf) fn needed(&self, key: &str, most: usize) -> Result<usize> {
        self.count(key, most)?.ok_or_else(|| self.wrong(key, &format!("an integer from 1 to {most}")))
    }

    /// A number above zero that `f32` holds.
    pub(in crate::hf) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.read_as(key, "a finite number above 0", |value| {
            value.as_f64().filter(|v| *v as f32 > 0.0 && (*v as f32).is_finite())
        })
    }

    fn read_as<'v, T>(
        &'v self,
        key: &str,
        expected: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    /// The error of a key that should hold something else, or anything at all.
    pub(in crate::hf) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), shown);
        malformed(&self.path, &format!("key {}{key}", self.prefix), expected, &found)
    }

    /// The error of a key whose value asks for what this engine does not do.
    pub(in crate::hf) fn unsupported(&self, key: &str, reason: &str) -> Error {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), shown);
        Error::Unsupported {
            path: self.path.clone(),
            item: format!("key {}{key}", self.prefix),
            reason: format!("{found}: {reason}"),
        }
    }
}

/// A value in a few words.
fn shown(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        scalar => scalar.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Refuses what is no regular file. To be asked before opening, because opening a pipe waits for its other end.
pub(in crate::hf) fn regular(path: &Path) -> Result<()> {
    let found = fs::metadata(path);
    match found.map_err(|source| Error::Io { path: path.to_owned(), action: "open", source })?.is_file() {
        true => Ok(()),
        false => Err(malformed(path, "file", "a regular file", "a directory, a pipe or a device")),
    }
}

/// All of a regular file of at most `max_bytes`.
pub(in crate::hf) fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
    regular(path)?;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io("open"))?;
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io("read"))?;
    if bytes.len() as u64 > max_bytes {
        return Err(malformed(path, "file", &format!("at most {max_bytes} bytes"), "more"));
    }
    Ok(bytes)
}

pub(in crate::hf) fn malformed(path: &Path, item: &str, expected: &str, found: &str) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        item: item.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}
