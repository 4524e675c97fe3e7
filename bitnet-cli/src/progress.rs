//! Progress on stderr: for eyes at a terminal, never for files.

use std::io::{self, IsTerminal, Write};

use crate::output::escaped;

/// A word, or a percentage that redraws itself, on stderr and on a terminal only.
pub(crate) struct Progress {
    label: String,
    shown: Option<u64>,
}

impl Progress {
    /// A progress line called `label`; silent when stderr is no terminal, or one that cannot erase a line.
    pub(crate) fn new(label: String) -> Option<Self> {
        let label = escaped(&label);
        (io::stderr().is_terminal() && erases()).then_some(Progress { label, shown: None })
    }

    /// A line that says `label` alone, until it is dropped: of work whose end cannot be foretold.
    pub(crate) fn word(label: String) -> Option<Self> {
        let mut progress = Progress::new(label)?;
        let _ = write!(io::stderr(), "{} ...", progress.label);
        progress.shown = Some(0);
        Some(progress)
    }

    /// Shows `done` of `total`, if the percentage changed.
    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100) / total.max(1);
        if self.shown != Some(percent) {
            self.shown = Some(percent);
            let _ = write!(io::stderr(), "\r{} {percent:3} %", self.label);
        }
    }
}

/// Whether the terminal obeys escape sequences, as far as its name tells.
#[expect(clippy::disallowed_methods, reason = "the terminal's name, which is no switch of ours")]
fn erases() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K"); // erase the line: the result speaks for itself
        }
    }
}
