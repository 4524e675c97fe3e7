//! A file's bytes in memory: mapped, read, or part of the program.
//!
//! A mapped file costs nothing until it is looked at, and memory the machine can take back. Its price: a file
//! that another program cuts short while it is mapped ends the process with a bus error on the next look at the
//! missing part. [`Access::Read`] is for those who cannot rule that out.
#![expect(unsafe_code, reason = "mapping a file and handing its pages back are unsafe calls; both are here")]

use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::header;
use super::reader::Fault;
use crate::{Error, Result};

/// How a file's bytes get into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Mapped read-only: pages come from the disk when they are looked at.
    #[default]
    Map,
    /// Read as a whole into memory of our own, which no other program can change.
    Read,
}

/// The bytes of one file.
#[derive(Debug)]
pub(super) enum Blob {
    /// Pages of the file, or of memory of our own; they start on a page boundary.
    Pages {
        /// The pages.
        bytes: Mmap,
        /// Where they come from.
        access: Access,
    },
    /// Bytes that are part of the program, aligned as it pleases.
    Static(&'static [u8]),
}

impl Blob {
    /// Maps or reads a file whose first bytes are those of a GGUF file we can read.
    pub(super) fn open(path: &Path, access: Access) -> Result<Blob> {
        let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
        // Asked before opening, because opening a pipe waits for its other end.
        regular(path, &fs::metadata(path).map_err(io("open"))?)?;
        let mut file = File::open(path).map_err(io("open"))?;
        let meta = file.metadata().map_err(io("open"))?;
        regular(path, &meta)?;
        if meta.len() < header::MIN_LEN {
            let expected = format!("at least {} bytes, the smallest GGUF file", header::MIN_LEN);
            return Err(Fault::new(expected, meta.len().to_string()).at(path, "file size"));
        }
        let len = usize::try_from(meta.len()).map_err(|_| {
            Fault::new("a size that fits this machine's addresses", meta.len().to_string())
                .at(path, "file size")
        })?;

        // A gigabyte that is not a model is neither mapped nor read.
        let mut start = [0; header::MIN_LEN as usize];
        file.read_exact(&mut start).map_err(io("read"))?;
        header::check_start(path, &start)?;

        let bytes = match access {
            // SAFETY: the map is read-only and nothing here writes the file. That no other program does while
            // the model is in use is asked of the user (`Access::Map`); what depends on a value read twice is
            // checked twice.
            Access::Map => unsafe { MmapOptions::new().len(len).map(&file) }.map_err(io("map"))?,
            Access::Read => {
                let mut buffer = memory(len).map_err(io("find memory for"))?;
                if let Some((first, rest)) = buffer.split_at_mut_checked(start.len()) {
                    first.copy_from_slice(&start);
                    file.read_exact(rest).map_err(io("read"))?;
                }
                buffer.make_read_only().map_err(io("read"))?
            }
        };
        let now = file.metadata().map_err(io("read"))?.len();
        if now != meta.len() {
            let expected = format!("{} bytes, as when it was opened", meta.len());
            return Err(Fault::new(expected, now.to_string()).at(path, "file size"));
        }
        Ok(Blob::Pages { bytes, access })
    }

    /// `len` bytes of memory of our own, filled by `fill`; `path` names them in messages.
    pub(super) fn fill(path: &Path, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Blob> {
        let io = |source| Error::Io { path: path.to_owned(), action: "find memory for", source };
        let mut buffer = memory(len).map_err(io)?;
        fill(&mut buffer)?;
        Ok(Blob::Pages { bytes: buffer.make_read_only().map_err(io)?, access: Access::Read })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Blob::Pages { bytes, .. } => bytes,
            Blob::Static(bytes) => bytes,
        }
    }

    /// Lets the kernel have the pages of `range` back, if they can be had from the file again.
    ///
    /// Whole pages are dropped, so the neighbours' first and last few bytes may have to be read again, too.
    pub(super) fn release(&self, range: Range<usize>) {
        let Blob::Pages { bytes, access: Access::Map } = self else { return };
        if bytes.get(range.clone()).is_none() {
            return;
        }
        // What the kernel does with an advice, success or refusal, never changes a result.
        #[cfg(unix)]
        // SAFETY: the range was just found inside the map, and the map is of a file and read-only: a page that
        // is looked at again comes back from the file with the bytes it had.
        let _ = unsafe {
            bytes.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }
}

/// Pages of our own, zeros at first.
fn memory(len: usize) -> std::io::Result<MmapMut> {
    let buffer = MmapMut::map_anon(len)?;
    // Fewer page faults while it is filled, and fewer address lookups ever after; a refusal costs nothing.
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    Ok(buffer)
}

/// A directory, a pipe or a device gets a sentence: opening one may hang, reading one may never end.
fn regular(path: &Path, meta: &fs::Metadata) -> Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    let found = if meta.is_dir() { "a directory" } else { "a pipe, a device or a socket" };
    Err(Fault::new("a regular file", found).at(path, "model"))
}
