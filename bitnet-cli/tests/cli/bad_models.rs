//! Files that are no models: one sentence, the right exit code, no delay.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Ran, bitnet};
use crate::tiny::{on_tiny, tiny};

/// Every verb that opens a model, on `path`.
fn open(path: &Path) -> Vec<Ran> {
    let path = path.to_str().expect("temporary folders are UTF-8");
    let start = Instant::now();
    let ran = vec![
        bitnet(["inspect", path]),
        bitnet(["run", "-m", path, "-p", "hi", "-n", "1"]),
        bitnet(["run", "-m", path, "-p", "hi", "-n", "1", "--no-mmap"]),
        bitnet(["bench", "-m", path, "-p", "1", "-n", "0", "-r", "1"]),
    ];
    assert!(start.elapsed() < Duration::from_secs(10), "a bad file is refused at once");
    ran
}

#[test]
fn a_file_that_cannot_be_opened_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    for ran in open(&folder.path().join("missing.gguf")) {
        assert!(ran.refused(1).contains("missing.gguf: "), "{ran:?}");
    }
    for ran in open(folder.path()) {
        assert!(ran.refused(3).ends_with("expected a regular file, found a directory"), "{ran:?}");
    }
}

#[test]
fn a_file_of_something_else_is_a_bad_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    for bytes in [&b""[..], b"GGUF", b"PK\x03\x04 a zip file, longer than a header", &[0xff; 4096]] {
        fs::write(&path, bytes).unwrap();
        for ran in open(&path) {
            assert!(ran.refused(3).contains("bad.gguf: "), "{ran:?}");
        }
    }
}

#[test]
fn a_truncated_model_is_a_bad_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let whole = fs::read(tiny()).unwrap();
    for len in [10, 24, 100, 1000, 4000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        for ran in open(&path) {
            assert!(ran.refused(3).contains("cut.gguf: "), "{len} bytes: {ran:?}");
        }
    }
}

#[test]
fn names_from_a_file_do_not_reach_the_terminal_raw() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.gguf");
    let mut bytes = fs::read(tiny()).unwrap();
    let at =
        bytes.windows(11).position(|window| window == b"output_norm").expect("the model has a final norm");
    bytes[at..at + 4].copy_from_slice(b"\x1b[2J");
    fs::write(&path, bytes).unwrap();
    for ran in open(&path) {
        assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'), "{ran:?}");
    }
}

/// One that makes the library that reads it panic is refused as quietly as one that is cut off.
#[test]
fn a_bad_tokenizer_is_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let bpe = r#"{"model": {"type": "BPE", "continuing_subword_prefix": "@@@@", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}"#;
    for (text, found) in [
        (&bpe[..20], "EOF while parsing a string at line 1 column 20"),
        (bpe, "parts that contradict each other"),
    ] {
        fs::write(&path, text).unwrap();
        let ran = on_tiny("run", &format!("--tokenizer {} -p hi -n 1", path.display()));
        let said = format!("{}: tokenizer: expected a tokenizer.json, found {found}", path.display());
        assert_eq!(ran.refused(3), said);
    }
}

/// A file that never ends costs no more than one that is bad.
#[cfg(target_os = "linux")]
#[test]
fn an_endless_file_of_tile_sizes_is_refused_at_once() {
    for verb in ["run -p hi -n 1", "inspect"] {
        let line = format!("{verb} -m {} --tl-config /dev/zero", tiny().display());
        let start = Instant::now();
        let ran = crate::cheap::within_50_mb(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.refused(2), "--tl-config /dev/zero: expected at most 1 MiB of text");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
