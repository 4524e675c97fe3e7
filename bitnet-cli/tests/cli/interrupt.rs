//! Ctrl-C while a file is written: the one there before stays as it was, with nothing beside it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::convert::write_checkpoint;
use crate::support::{Ran, command};
use crate::tiny::tiny;

/// Runs `verb model out flags...` and interrupts it as soon as it has begun to write.
#[track_caller]
fn interrupted(verb: &str, model: &Path, out: &Path, flags: &str) {
    let folder = out.parent().unwrap();
    let names = || -> BTreeSet<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    fs::write(out, "before").unwrap();
    let before = names();
    for _ in 0..100 {
        fs::write(out, "before").unwrap();
        let paths = [verb.as_ref(), model.as_os_str(), out.as_os_str()];
        let flags = flags.split_whitespace().map(OsStr::new);
        let mut child = command(paths.into_iter().chain(flags)).spawn().unwrap();
        while names() == before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(100));
        }
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(names(), before, "{ran:?}");
        if ran.code == Some(130) {
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
    interrupted("convert", checkpoint.path(), &folder.path().join("out.gguf"), "--force");
}

#[test]
fn an_interrupted_quantization_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    interrupted("quantize", tiny(), &folder.path().join("out.gguf"), "--type tq1_0 --force");
}
