//! `bitnet parity`: logs side by side, and logs written.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as tests do")]

use std::path::{Path, PathBuf};

use crate::golden::Golden;
use crate::support::{Ran, bitnet, words};
use crate::tiny::with_stdin;
use serde_json::{Value, json};

/// A file of these lines.
fn file(folder: &Path, name: &str, lines: &str) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::write(&path, lines).unwrap();
    path.to_str().unwrap().to_owned()
}

const A: &str = "{\"step\":0,\"token\":7,\"top_k\":[[7,2.0],[3,1.0]]}\n{\"step\":1,\"token\":3,\"top_k\":[[3,1.5],[7,1.0]]}\n";

#[track_caller]
fn mismatch(ran: &Ran) -> &str {
    assert_eq!((ran.code, &*ran.stderr), (Some(4), ""), "{ran:?}");
    &ran.stdout
}

#[test]
fn a_recording_of_every_golden_model_is_bitnet_cpps_log_in_any_build() {
    let folder = tempfile::tempdir().unwrap();
    for golden in Golden::all() {
        let log = folder.path().join(format!("{}.log", golden.name));
        let log = log.to_str().unwrap();
        let ran: Ran = golden.verb(&format!("parity --record {log}"), "", &[]).output().unwrap().into();
        assert_eq!((ran.done(), &*ran.stderr), ("", ""));
        let ran = bitnet(["parity", log, &golden.log()]);
        assert!(ran.done().ends_with("rank agreement:   100.00 %\nverdict: identical\n"), "{ran:?}");
        assert_eq!(ran.stderr, "");
        let answer: Value =
            serde_json::from_str(bitnet(["parity", log, &golden.log(), "--json"]).done()).unwrap();
        let n = golden.generated.len();
        assert_eq!((&answer["verdict"], &answer["match"]), (&json!("identical"), &json!(true)));
        assert_eq!((&answer["steps"], &answer["shared_logits"]), (&json!(n), &json!(10 * n)));
        assert_eq!((&answer["max_difference"], &answer["rms_difference"]), (&json!(0.0), &json!(0.0)));
        assert_eq!(answer["first_difference"], Value::Null);
    }
}

#[test]
fn a_recording_does_not_depend_on_how_it_is_computed() {
    let golden = Golden::of("b158-tiny");
    let log = |flags: &str| {
        let ran: Ran = golden.verb("parity --record -", flags, &[]).output().unwrap().into();
        ran.done().to_owned()
    };
    let expected = log("");
    assert_eq!(expected.lines().count(), golden.generated.len());
    for flags in ["--isa scalar", "-t 1", "-b 3", "--no-mmap"] {
        assert_eq!(log(flags), expected, "{flags}");
    }
    let ran = with_stdin(["parity", "-", &golden.log()], expected.as_bytes());
    assert!(ran.done().starts_with("a: stdin, 24 steps\n"), "{ran:?}");
}

#[test]
fn a_recording_overwrites_only_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::of("b158-tiny");
    let log = file(folder.path(), "old.log", "precious\n");
    let verb = format!("parity --record {log}");
    let ran: Ran = golden.verb(&verb, "", &[]).output().unwrap().into();
    assert_eq!(ran.refused(2), format!("--record {log}: the file exists (--force overwrites it)"));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "precious\n");
    let ran: Ran = golden.verb(&verb, "--force", &[]).output().unwrap().into();
    ran.done();
    bitnet(["parity", &log, &golden.log()]).done();
    // What cannot fit is refused before anything is computed.
    let ran: Ran = golden.verb(&verb, "--force -c 47", &[]).output().unwrap().into();
    ran.done();
    let ran: Ran = golden.verb(&verb, "--force -c 46", &[]).output().unwrap().into();
    assert!(ran.refused(1).starts_with("context is full: 47 positions wanted"), "{ran:?}");
}

#[test]
fn every_verdict_has_its_exit_code_and_flags_say_what_may_differ() {
    let folder = tempfile::tempdir().unwrap();
    let a = file(folder.path(), "a.log", A);
    let same = file(folder.path(), "same.log", &format!("engine starting\n{A}timing: embed_us=3\n"));
    let logits = file(folder.path(), "logits.log", &A.replace("1.5", "1.75"));
    let other = file(folder.path(), "other.log", &A.replace("\"token\":3", "\"token\":7"));
    let short = file(folder.path(), "short.log", A.split_inclusive('\n').next().unwrap());

    assert!(bitnet(["parity", &a, &same]).done().ends_with("verdict: identical\n"));

    let ran = bitnet(["parity", &a, &logits]);
    assert!(mismatch(&ran).contains("\nfirst difference: step 1\n"), "{ran:?}");
    assert!(ran.stdout.contains("\nmax difference:   2.5000e-1 (step 1, token 3)\n"), "{ran:?}");
    assert!(ran.stdout.contains("\nrms difference:   1.2500e-1\n"), "{ran:?}"); // one of four logits
    assert!(ran.stdout.ends_with("\nverdict: same tokens\n"), "{ran:?}");
    assert_eq!(bitnet(["parity", &a, &logits, "--tokens-only"]).done(), ran.stdout);

    let ran = bitnet(["parity", &a, &other, "--tokens-only"]);
    assert!(mismatch(&ran).contains("\nfirst difference: step 1, token 3 in a, 7 in b\n"), "{ran:?}");
    assert!(ran.stdout.ends_with("\nverdict: diverged at step 1\n"), "{ran:?}");
    let ran = bitnet(["parity", &a, &other, "--json"]);
    let answer: Value = serde_json::from_str(mismatch(&ran)).unwrap();
    assert_eq!((&answer["diverged_at"], &answer["match"]), (&json!(1), &json!(false)));

    let ran = bitnet(["parity", &a, &short]);
    assert!(mismatch(&ran).contains("a.log, 2 steps, 1 of them only here\n"), "{ran:?}");
    assert!(ran.stdout.ends_with("\nverdict: identical\n"), "{ran:?}");
    assert_eq!(bitnet(["parity", &a, &short, "--prefix"]).done(), ran.stdout);
}

#[test]
fn what_is_no_log_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let a = file(folder.path(), "a.log", A);
    let gap = file(folder.path(), "gap.log", &A.replace("\"step\":1", "\"step\":2"));
    let cut = file(folder.path(), "cut.log", &A[..A.len() - 8]);
    let none = file(folder.path(), "none.log", "hello\n");
    let later = file(folder.path(), "later.log", "{\"step\":9,\"token\":7}\n");
    for (bad, says) in [
        (&gap, "gap.log: line 2: expected the step after 0, found step 2"),
        (&cut, "cut.log: line 2: expected one whole JSON object, found "),
        (&none, "none.log: parity log: expected lines like "),
        (&later, "comparison: no step is in both logs: "),
    ] {
        for pair in [[&a, bad], [bad, &a]] {
            let ran = bitnet(["parity", pair[0], pair[1]]);
            assert!(ran.refused(2).contains(says), "{ran:?}\nexpected {says}");
        }
    }
    let ran = words("parity no/such.log no/such.log");
    assert!(ran.refused(1).starts_with("cannot open no/such.log: "), "{ran:?}");
    let ran = with_stdin(["parity", &a, "-"], b"\xff{\"step\":0}\n{\"step\":");
    assert!(ran.refused(2).starts_with("stdin: line 2: "), "{ran:?}");
    // A bad model stays a bad model.
    let ran = bitnet(["parity", "--record", "-", "-m", &a, "--tokens", "1"]);
    ran.refused(3);
}

#[test]
fn the_line_format_of_the_help_is_one_that_is_read() {
    let help = words("parity --help");
    let line = help.done().lines().find(|line| line.trim_start().starts_with("{\"step\"")).unwrap();
    let ran = with_stdin(["parity", "-", "-"], b"");
    assert!(ran.refused(2).starts_with("- and -: "), "{ran:?}");
    let folder = tempfile::tempdir().unwrap();
    let shown = file(folder.path(), "shown.log", line);
    let ran = with_stdin(["parity", &shown, "-"], line.as_bytes());
    assert!(ran.done().ends_with("verdict: identical\n"), "{ran:?}");
}
