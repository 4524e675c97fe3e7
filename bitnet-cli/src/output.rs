//! Where words go: text to stdout, everything else to stderr.
//!
//! `println!` and `eprintln!` panic when their reader goes away; nothing here does.

use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;

use crate::exit::Failure;

/// Standard output, held for the whole run. Text is buffered; [`flush`](Self::flush) shows it.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Takes standard output.
    pub(crate) fn stdout() -> Self {
        Output(BufWriter::new(io::stdout().lock()))
    }

    /// Buffers `text`, exactly as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.0.write_all(text.as_bytes()).map_err(Failure::Stdout)
    }

    /// Shows what was buffered. Call it after every token: a stream that stutters looks slow.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(Failure::Stdout)
    }

    /// Buffers and shows `text`: for answers that come in one piece.
    pub(crate) fn all(mut self, text: &str) -> Result<(), Failure> {
        self.text(text)?;
        self.flush()
    }

    /// The same for answers that a verdict follows, which has to be given also if nobody reads on.
    #[cfg(feature = "full-cli")]
    pub(crate) fn before_verdict(self, text: &str) -> Result<(), Failure> {
        match self.all(text) {
            Err(Failure::Stdout(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            said => said,
        }
    }
}

/// `text` without characters that steer a terminal, which names of files and names in files may have.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { safe.extend(c.escape_debug()) } else { safe.push(c) }
    }
    safe
}

/// Characters of a cell that others are padded to: a name in a file may be longer than any line.
#[cfg(feature = "full-cli")]
const WIDEST: usize = 120;

/// `text` as a cell of a table, cut where it is too long for one.
#[cfg(feature = "full-cli")]
pub(crate) fn cell(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(WIDEST) {
        text.truncate(end);
        text += "...";
    }
    text
}

/// A path for people: see [`escaped`].
pub(crate) fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// One line on stderr. A closed stderr loses the line, never the run.
pub(crate) fn note(line: fmt::Arguments<'_>) {
    // One write per line, so that lines of other processes on the same terminal do not cut it.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
