//! What can go wrong, in one enum: where, what was expected, what was found.
//!
//! Messages are lower case, without a full stop, and use the user's own names and numbers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::TokenId;

/// The result of anything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the engine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What was being done, as in "cannot *open*".
        action: &'static str,
        /// The system's own reason.
        source: io::Error,
    },
    /// A file's bytes are not what its format demands.
    Malformed {
        /// The file.
        path: PathBuf,
        /// The thing in the file: `tensor blk.0.attn_q.weight`, `metadata key general.alignment`.
        item: String,
        /// What the format or the model demands.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The file is sound, but this engine does not run it.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The thing in the file.
        item: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// A file that was written says something else when it is read again.
    ReadBack {
        /// The file that was to be written; it is as it was before.
        path: PathBuf,
        /// What differs in it.
        item: String,
    },
    /// The system does not give what the work takes: threads, memory.
    Refused {
        /// What, for what, and which flag asks for less: `memory for a cache of 4096 positions (see --ctx-size)`.
        what: String,
        /// The system's own reason, if it has one.
        reason: Option<String>,
    },
    /// The caller asked for what cannot be given: a flag's value, an option, an instruction set.
    Invalid {
        /// The option, as the user knows it: `--isa avx512`.
        what: String,
        /// Why not, with what is accepted.
        reason: String,
    },
    /// A token id outside the vocabulary.
    Token {
        /// The id.
        id: TokenId,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// More positions than the context holds.
    ContextFull {
        /// Positions wanted in all.
        wanted: usize,
        /// Positions the session was made for.
        n_ctx: usize,
    },
}

impl Error {
    /// That there is no memory for `item` of the file at `path`.
    pub(crate) fn no_memory(path: &Path, item: &str) -> Error {
        Error::Refused { what: format!("memory for {item} of {}", path.display()), reason: None }
    }

    /// Whether the model file is at fault.
    #[must_use]
    pub fn is_bad_file(&self) -> bool {
        matches!(self, Error::Malformed { .. } | Error::Unsupported { .. })
    }

    /// Whether the caller is at fault.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(self, Error::Invalid { .. } | Error::Token { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, action, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Error::Malformed { path, item, expected, found } => {
                let (item, expected, found) = (Brief(item), Brief(expected), Brief(found));
                write!(f, "{}: {item}: expected {expected}, found {found}", path.display())
            }
            Error::Unsupported { path, item, reason } => {
                write!(f, "{}: {}: {}", path.display(), Brief(item), Brief(reason))
            }
            Error::ReadBack { path, item } => write!(
                f,
                "{}: {}: what was written reads back as something else, so the file was not kept",
                path.display(),
                Brief(item)
            ),
            Error::Refused { what, reason: None } => write!(f, "the system refuses {}", Brief(what)),
            Error::Refused { what, reason: Some(reason) } => {
                write!(f, "the system refuses {}: {}", Brief(what), Brief(reason))
            }
            Error::Invalid { what, reason } => write!(f, "{}: {}", Brief(what), Brief(reason)),
            Error::Token { id, n_vocab } => {
                write!(f, "token {id}: expected an id below {n_vocab}, the size of the vocabulary")
            }
            Error::ContextFull { wanted, n_ctx } => {
                write!(
                    f,
                    "context is full: {wanted} positions wanted, the context holds {n_ctx} (see --ctx-size)"
                )
            }
        }
    }
}

/// Text that may quote a file, where a name can have megabytes: only both ends of a long one are shown.
struct Brief<'a>(&'a str);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 4096;
        const END: usize = 200;
        let text = self.0;
        if text.len() <= MOST {
            return f.write_str(text);
        }
        let boundary = |i: &usize| text.is_char_boundary(*i);
        let head = (0..=END).rev().find(boundary).unwrap_or(0);
        let tail = (text.len() - END..text.len()).find(boundary).unwrap_or(text.len());
        write!(f, "{} [{} bytes left out] {}", &text[..head], tail - head, &text[tail..])
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_calls_a_thing_is_quoted_in_full_or_by_its_ends() {
        let sentence = |name: &str| Error::Malformed {
            path: "a.gguf".into(),
            item: name.into(),
            expected: "a name".into(),
            found: "another".into(),
        };
        assert_eq!(sentence("tensor x").to_string(), "a.gguf: tensor x: expected a name, found another");
        let long = sentence(&"\u{e9}".repeat(5_000_000)).to_string();
        assert!(long.len() < 600 && long.contains("\u{e9} [9999600 bytes left out] \u{e9}"), "{long}");
    }
}
