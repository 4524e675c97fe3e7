//! Running the binary as a user does.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// What a finished run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

impl Ran {
    /// Requires this exit code, an empty stdout and one sentence on stderr; returns the sentence.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32) -> &str {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        let sentence = self.stderr.strip_prefix("bitnet: ").and_then(|rest| rest.strip_suffix('\n'));
        let sentence = sentence.unwrap_or_else(|| panic!("no sentence: {self:?}"));
        assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{self:?}");
        sentence
    }

    /// Requires success; returns stdout.
    #[track_caller]
    pub(crate) fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }
}

/// The binary, with nothing on stdin.
pub(crate) fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `bitnet` with these arguments.
pub(crate) fn bitnet<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    command(args).output().expect("the binary starts").into()
}

/// Runs a line of words: no argument may contain a space.
pub(crate) fn words(line: &str) -> Ran {
    bitnet(line.split_whitespace())
}
