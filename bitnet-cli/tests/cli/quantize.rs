//! `bitnet quantize`: the same model in other words, or no file at all.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Ran, bitnet, command};
use crate::tiny::tiny;

pub(crate) fn quantize(from: &Path, to: &Path, line: &str) -> Ran {
    bitnet(args(from, to, line))
}

fn args(from: &Path, to: &Path, line: &str) -> Vec<String> {
    let mut args = vec!["quantize".to_owned()];
    args.extend([from, to].map(|path| path.to_str().expect("temporary folders are UTF-8").to_owned()));
    args.extend(line.split_whitespace().map(str::to_owned));
    args
}

#[test]
fn a_killed_run_leaves_the_file_there_before_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    fs::write(&out, "before").unwrap();
    let others = || fs::read_dir(folder.path()).unwrap().count() - 1;
    let mut killed_while_writing = 0;
    for pause in [0, 1, 2, 4, 8, 16, 32, 64] {
        let left = others();
        let mut child = command(args(tiny(), &out, "--type tq1_0 --force --quiet")).spawn().unwrap();
        // From the moment there is something half-written.
        while others() == left && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(100));
        }
        sleep(Duration::from_millis(pause));
        let done = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let done = done || child.wait().unwrap().success();
        if done || fs::read(&out).unwrap() != b"before" {
            // It came to its end, or was killed after it: then what is there is whole.
            let again = folder.path().join("again.gguf");
            quantize(tiny(), &again, "--type tq1_0 --force --quiet").done();
            assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "after {pause} ms");
            break;
        }
        killed_while_writing += usize::from(others() > left);
    }
    assert!(killed_while_writing > 0, "no run was killed in the middle");
}

#[test]
fn misuse_and_models_that_cannot_be_said_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    for (line, code, says) in [
        ("", 2, "--type: expected one of i2_s, tl1"),
        ("--type q4_0", 2, "--type q4_0: expected one of i2_s, tl1"),
        ("--type i2_s --embd f32", 2, "--embd f32: expected one of f16, q8_0, q6_k"),
        ("--type i2_s --i2s-layout c", 2, "--i2s-layout c: expected one of a, b"),
        ("--type i2_s --tl-config /nowhere.ini", 1, "cannot open /nowhere.ini: "),
        (
            "--type tl1",
            3,
            &format!("{}: tensor blk.0.attn_q.weight: type TL1: no tile sizes", tiny().display()),
        ),
    ] {
        let ran = quantize(tiny(), &out, line);
        assert!(ran.refused(code).starts_with(says), "{line}\n{ran:?}\nexpected {says}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{line}");
    }
    assert!(bitnet(["quantize", "a.gguf", "--type", "i2_s"]).refused(2).contains("expected two files"));
    fs::write(&out, "before").unwrap();
    let ran = quantize(tiny(), &out, "--type i2_s");
    assert!(ran.refused(2).ends_with("the file exists (--force overwrites it)"), "{ran:?}");
    assert_eq!(fs::read(&out).unwrap(), b"before");
}
