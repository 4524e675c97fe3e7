//! Running the binary on a tiny synthetic model.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use crate::support::{Ran, bitnet, command};

/// Runs `bitnet` with `input` on stdin.
pub(crate) fn with_stdin<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
    let mut child = command(args).stdin(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let _ = stdin.write_all(input); // it may have refused and gone already
    drop(stdin);
    child.wait_with_output().expect("the binary ends").into()
}

/// A tiny synthetic model, made once for all tests by the binary itself.
pub(crate) fn tiny() -> &'static Path {
    static TINY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = TINY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("tiny.gguf");
        bitnet([OsStr::new("synth"), OsStr::new("--shape"), OsStr::new("tiny"), path.as_os_str()]).done();
        (folder, path)
    });
    path
}

/// `verb -m tiny.gguf words...`.
pub(crate) fn on_tiny(verb: &str, line: &str) -> Ran {
    bitnet(on_tiny_args(verb, line))
}

/// The arguments of [`on_tiny`].
pub(crate) fn on_tiny_args(verb: &str, line: &str) -> Vec<String> {
    let model = tiny().to_str().expect("temporary folders are UTF-8").to_owned();
    let mut args = vec![verb.to_owned(), "-m".to_owned(), model];
    args.extend(line.split_whitespace().map(str::to_owned));
    args
}
