//! How a run ends: at most one sentence on stderr, and one exit code.
//!
//! | code | meaning                                                |
//! |------|--------------------------------------------------------|
//! | 0    | done; also when the reader of stdout went away         |
//! | 1    | failed: a file that cannot be opened, a full disk, ... |
//! | 2    | misused: a flag, a value or a token id                 |
//! | 3    | bad or unsupported model file                          |
//! | 4    | parity mismatch                                        |
//! | 5    | a check fell short                                     |
//! | 130  | interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP   |
//!
//! A verdict, such as 4 or 5, is given whether or not somebody reads stdout.

use std::io;
use std::process::ExitCode;

use crate::interrupt;
use crate::output::{escaped, note};

/// Why a command did not finish.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong; the sentence names the flag and what is accepted.
    Misuse(String),
    /// The engine or the file it read.
    Engine(bitnet_core::Error),
    /// Standard output does not take what we have to say.
    Stdout(io::Error),
    /// Two logs that should match do not. What there was to say has been said, on stdout.
    #[cfg(feature = "full-cli")]
    Mismatch,
    /// What there was to say has been said, on stderr; this is the exit code.
    #[cfg(feature = "full-cli")]
    Said(u8),
    /// Ctrl-C, or another signal. What there was to say has been said.
    Interrupted,
}

impl Failure {
    /// A usage error about `what`: a flag with its value, as the user typed them.
    pub(crate) fn misuse(what: &str, reason: &str) -> Self {
        Failure::Misuse(format!("{what}: {reason}"))
    }

    /// Says what went wrong, and returns the exit code for it.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            // The reader has all it wanted: `bitnet run ... | head -1` is no failure.
            Failure::Stdout(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Failure::Stdout(e) => say(&format!("cannot write to stdout: {e}"), 1),
            Failure::Misuse(sentence) => say(sentence, 2),
            Failure::Engine(e) if e.is_bad_file() => say(&e.to_string(), 3),
            Failure::Engine(e) if e.is_misuse() => say(&e.to_string(), 2),
            Failure::Engine(e @ bitnet_core::Error::ReadBack { .. }) => say(&e.to_string(), 5),
            Failure::Engine(e) => say(&e.to_string(), 1),
            #[cfg(feature = "full-cli")]
            Failure::Mismatch => ExitCode::from(4),
            #[cfg(feature = "full-cli")]
            Failure::Said(code) => ExitCode::from(*code),
            Failure::Interrupted => ExitCode::from(interrupt::exit_code()),
        }
    }
}

/// An engine error prints its own cause, so that the chain is already one sentence. Names in it may come from a
/// file: what could move a terminal's cursor is escaped.
fn say(sentence: &str, code: u8) -> ExitCode {
    complain(sentence);
    ExitCode::from(code)
}

/// Says what went wrong without ending the run.
pub(crate) fn complain(sentence: &str) {
    note(format_args!("bitnet: {}", escaped(sentence)));
}

impl From<bitnet_core::Error> for Failure {
    fn from(e: bitnet_core::Error) -> Self {
        Failure::Engine(e)
    }
}
