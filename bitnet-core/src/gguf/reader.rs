//! A cursor over a file's bytes that cannot leave them: the only code that touches raw file bytes.
//!
//! A read either succeeds within the bytes left or ends in a [`Fault`], which knows what was expected and found
//! but not where; the caller, who knows which item it was reading, completes it with [`Fault::at`].

use std::path::Path;

use crate::Error;

/// What was expected and what was found, before anyone said where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    expected: String,
    found: String,
}

impl Fault {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault { expected: expected.into(), found: found.into() }
    }

    /// The same fault, in element `i` of an array.
    pub(super) fn of_element(mut self, i: u64) -> Fault {
        self.found = format!("{} in element {i}", self.found);
        self
    }

    /// The finished error: this fault, in this item of this file.
    pub(super) fn at(self, path: &Path, item: impl Into<String>) -> Error {
        Error::Malformed {
            path: path.to_owned(),
            item: item.into(),
            expected: self.expected,
            found: self.found,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

/// The cursor: the bytes not read yet, and how many there were at first.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

/// One little-endian read for each primitive of the format.
macro_rules! primitives {
    ($($name:ident)*) => {$(
        pub(super) fn $name(&mut self) -> Result<$name, Fault> {
            self.chunk().map($name::from_le_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, len: bytes.len() }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.len.saturating_sub(self.rest.len())
    }

    /// Bytes left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    primitives! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }

    /// The next `n` bytes, not copied.
    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        match usize::try_from(n).ok().and_then(|n| self.rest.split_at_checked(n)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.short(n)),
        }
    }

    /// The bytes between this cursor and `later`, a copy of it that was moved on.
    pub(super) fn up_to(&self, later: &Reader<'a>) -> &'a [u8] {
        let n = self.rest.len().saturating_sub(later.rest.len());
        self.rest.get(..n).unwrap_or_default()
    }

    /// A string of at most `max` bytes: its length, then its bytes, which need not be text.
    pub(super) fn string(&mut self, max: u64) -> Result<&'a [u8], Fault> {
        let len = self.u64()?;
        if len > max {
            return Err(Fault::new(format!("a string of at most {max} bytes"), format!("a length of {len}")));
        }
        self.take(len)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(*chunk)
            }
            None => Err(self.short(N as u64)),
        }
    }

    #[cold]
    fn short(&self, wanted: u64) -> Fault {
        Fault::new(
            format!("{wanted} more bytes at offset {}", self.position()),
            format!("{} before the end of the file", self.rest.len()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_little_endian_and_counts() {
        let mut r = Reader::new(&[1, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0xff]);
        assert_eq!((r.u8(), r.u16(), r.take(3)), (Ok(1), Ok(2), Ok(&[0, 0, 0][..])));
        assert_eq!((r.u16(), r.position(), r.remaining()), (Ok(0x8000), 8, 2));
    }

    #[test]
    fn a_short_read_says_where_and_moves_nothing() {
        let mut r = Reader::new(&[0; 5]);
        r.u16().unwrap();
        let fault = r.u32().unwrap_err();
        assert_eq!(fault, Fault::new("4 more bytes at offset 2", "3 before the end of the file"));
        assert_eq!(r.remaining(), 3);
        assert!(r.take(u64::MAX).is_err());
    }

    #[test]
    fn a_string_length_is_compared_before_it_is_used() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.push(b'x');
        assert!(Reader::new(&bytes).string(u64::MAX).is_err());
        assert!(Reader::new(&bytes).string(8).is_err());
        let one = [1, 0, 0, 0, 0, 0, 0, 0, b'x'];
        assert_eq!(Reader::new(&one).string(1), Ok(&b"x"[..]));
    }
}
