//! Ctrl-C, SIGTERM and SIGHUP while a file is written: the one there before stays as it was, with nothing beside it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::convert::write_checkpoint;
use crate::support::{Ran, command};
use crate::tiny::tiny;

const INT: (&str, i32) = ("-INT", 130);

fn send(signal: &str, child: &Child) {
    Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Whether a hangup is ignored here, as under nohup: whatever is started then ignores it, too.
fn hangup_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1)
}

/// Runs `words... out flags...` and sends it `signal` as soon as it has begun to write.
#[track_caller]
fn interrupted(words: &[&OsStr], out: &Path, flags: &str, (signal, code): (&str, i32)) {
    let folder = out.parent().unwrap();
    let names = || -> BTreeSet<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    fs::write(out, "before").unwrap();
    let before = names();
    for _ in 0..100 {
        fs::write(out, "before").unwrap();
        let flags = flags.split_whitespace().map(OsStr::new);
        let args = words.iter().copied().chain([out.as_os_str()]).chain(flags);
        let mut child = command(args).spawn().unwrap();
        while names() == before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(100));
        }
        send(signal, &child);
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(names(), before, "{ran:?}");
        if ran.code == Some(code) {
            assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""));
            assert_eq!(fs::read(out).unwrap(), b"before");
            return;
        }
        assert_eq!(ran.code, Some(0), "neither done nor interrupted: {ran:?}");
    }
    panic!("no run was interrupted: all were done before");
}

#[test]
fn an_interrupted_conversion_leaves_nothing_behind() {
    let [checkpoint, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write_checkpoint(checkpoint.path(), 40_000);
    let words = ["convert".as_ref(), checkpoint.path().as_os_str()];
    interrupted(&words, &folder.path().join("out.gguf"), "--force", INT);
}

#[test]
fn an_interrupted_quantization_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["quantize".as_ref(), tiny().as_os_str()];
    interrupted(&words, &folder.path().join("out.gguf"), "--type tq1_0 --force", INT);
}

#[test]
fn an_interrupted_synthesis_leaves_nothing_behind_whatever_the_signal() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["synth", "--shape", "large"].map(OsStr::new); // longer in writing than a signal is on its way
    let signals = [INT, ("-TERM", 143), ("-HUP", 129)];
    for signal in signals.into_iter().take(if hangup_is_ignored() { 2 } else { 3 }) {
        interrupted(&words, &folder.path().join("out.gguf"), "--force", signal);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let mut under_nohup = Command::new("nohup");
    under_nohup.args([env!("CARGO_BIN_EXE_bitnet"), "run", "-m"]).arg(tiny());
    under_nohup.args(["--tokens", "1", "--ignore-eos", "-n", "1000000", "-c", "1000001", "-q"]);
    let mut child = under_nohup.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    sleep(Duration::from_millis(300));
    send("-HUP", &child);
    sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it went on");
    send("-TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// Not even a process that is killed leaves a synthetic model: it has lost its name before it has a first byte.
#[cfg(target_os = "linux")]
#[test]
fn a_synthetic_model_has_no_name_that_could_be_left_or_foretold() {
    let folder = tempfile::tempdir().unwrap();
    let args = "bench --synthetic mid -p 0 -n 1 -r 1000 -q".split(' ');
    let mut child = command(args).env("TMPDIR", folder.path()).spawn().unwrap();
    let mut seen = 0;
    for _ in 0..50 {
        sleep(Duration::from_millis(10));
        seen += fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().metadata().is_ok_and(|meta| meta.len() > 0))
            .count();
    }
    assert!(child.try_wait().unwrap().is_none(), "it is at work");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((seen, fs::read_dir(folder.path()).unwrap().count()), (0, 0));
}
