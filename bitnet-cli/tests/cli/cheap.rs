//! What a refusal may cost: one sentence, 100 ms, 50 MB.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ran, bitnet};

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
