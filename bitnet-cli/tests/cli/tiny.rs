//! Running the binary on a tiny synthetic model.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

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

/// Runs `bitnet` with an address space of at most 50 MB, where the system can be asked for that.
pub(crate) fn within_50_mb<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    if !cfg!(target_os = "linux") {
        return bitnet(args);
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 48828 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_bitnet")]).args(args);
    shell.stdin(Stdio::null()).output().expect("the shell starts").into()
}

/// Requires that `bitnet` refuses the model at `path` in one sentence, with exit code 3, in less than 100 ms and
/// 50 MB; returns the sentence after the file's name. The best of three runs counts: any one may have had to wait
/// for the machine.
#[track_caller]
pub(crate) fn refused_cheaply(path: &Path, args: &[&str]) -> String {
    const LIMIT: Duration = Duration::from_millis(100);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        let ran = within_50_mb(args);
        best = best.min(start.elapsed());
        let sentence = ran.refused(3);
        let rest = sentence.strip_prefix(&format!("{}: ", path.display()));
        let rest = rest.unwrap_or_else(|| panic!("the sentence does not begin with the file: {ran:?}"));
        if best < LIMIT {
            return rest.to_owned();
        }
    }
    panic!("{best:?} to refuse {}", path.display());
}
