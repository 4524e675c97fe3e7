//! `bitnet bench` and `bitnet synth`: measuring without downloading anything.

use std::fs;

use crate::support::{Ran, bitnet, command, words};
use crate::tiny::{on_tiny, tiny};
use serde_json::Value;

const QUICK: &str = "-p 4 -n 2 -t 1,2 -r 2";

#[test]
fn json_has_a_row_for_every_combination_and_a_sample_for_every_repetition() {
    let rows: Value =
        serde_json::from_str(on_tiny("bench", &format!("{QUICK} -d 0,3 -o json")).done()).unwrap();
    let rows = rows.as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    let expected = ["pp4", "tg2", "pp4 @ d3", "tg2 @ d3"];
    assert_eq!(names, [expected, expected].concat());
    for row in rows {
        assert_eq!(row["samples_ts"].as_array().unwrap().len(), 2, "{row}");
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["stddev_ts"].as_f64().unwrap() >= 0.0, "{row}");
        // Prefill reads weights once for a batch, not for a token.
        assert_eq!(row["bytes_per_token"].as_u64().is_some_and(|n| n > 0), row["n_gen"] == 2, "{row}");
    }
}

#[test]
fn every_format_has_the_same_rows() {
    let run = |format: &str| on_tiny("bench", &format!("{QUICK} -q -o {format}"));
    let markdown = run("md");
    assert_eq!((markdown.done().lines().count(), &*markdown.stderr), (2 + 4, ""), "{markdown:?}");
    assert_eq!(run("csv").done().lines().count(), 1 + 4);
    let lines = run("jsonl");
    for line in lines.done().lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["test"].is_string());
    }
    assert_eq!(lines.stdout.lines().count(), 4);
}

#[test]
fn a_receipt_has_what_makes_it_believable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("receipt.json");
    let line = format!("{QUICK} --isa scalar --receipt {}", path.display());
    on_tiny("bench", &line).done();
    let receipt: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for key in ["schema", "date", "command", "build", "machine", "isa", "threads", "model", "rows"] {
        assert!(!receipt[key].is_null(), "{key}");
    }
    assert!(receipt["build"]["rustc"].as_str().unwrap().starts_with("rustc "), "{receipt}");
    assert_eq!(receipt["build"]["binary"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(receipt["model"]["bytes"], fs::metadata(tiny()).unwrap().len());
    assert_eq!((&receipt["isa"], &receipt["kernels"]), (&"scalar".into(), &"scalar".into()));
    // What a cache holds stays where it is: that is what `auto` chose.
    assert_eq!((&receipt["weights"], &receipt["rows"][0]["weights"]), (&"map".into(), &"map".into()));
    assert_eq!(receipt["rows"][0]["samples_ns"].as_array().unwrap().len(), 2);

    let again = on_tiny("bench", &line);
    assert!(again.refused(2).contains("the file exists"), "{again:?}");
    on_tiny("bench", &format!("{line} --force")).done();
}

#[test]
fn a_row_says_where_the_weights_are() {
    for weights in ["map", "2bit", "tri5"] {
        let ran = on_tiny("bench", &format!("-p 1 -n 0 -r 1 -q -o jsonl --weights {weights}"));
        assert_eq!(serde_json::from_str::<Value>(ran.done()).unwrap()["weights"], weights);
    }
}

#[test]
fn more_rows_than_anyone_waits_for_are_refused_and_so_is_force_without_a_receipt() {
    let ones = |n: usize| vec!["1"; n].join(",");
    let rows = |n_prompt: usize, depth: usize| {
        words(&format!("bench -m /nowhere.gguf -p {},0 -n 1 -d {} -t 1,1", ones(n_prompt), ones(depth)))
    };
    let says =
        "--n-prompt, --n-gen, --depth and --threads: expected at most 10000 rows together, found 10020";
    assert_eq!(rows(9, 501).refused(2), says);
    assert!(rows(9, 500).refused(1).starts_with("cannot open /nowhere.gguf: "));
    for verb in ["bench", "eval --data /nowhere.tsv"] {
        let ran = words(&format!("{verb} -m /nowhere.gguf --force"));
        assert_eq!(ran.refused(2), "--force: belongs to --receipt; expected --receipt FILE with it");
    }
}

#[cfg(unix)]
#[test]
fn a_synthetic_model_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(format!("bench --synthetic tiny {QUICK} -q -o csv").split_whitespace());
    let ran = Ran::from(command.env("TMPDIR", folder.path()).output().unwrap());
    assert_eq!(ran.done().lines().count(), 1 + 4, "{ran:?}");
    assert!(ran.stdout.contains("synthetic tiny"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn synth_writes_the_same_bytes_for_the_same_seed_and_overwrites_only_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let synth = |seed: &str, name: &str| bitnet(["synth", "--seed", seed, &at(name)]);
    for (seed, name) in [("1", "a"), ("1", "b"), ("2", "c")] {
        assert_eq!(synth(seed, name).done(), "", "stdout is for text");
    }
    let read = |name: &str| fs::read(at(name)).unwrap();
    assert!(read("a") == read("b"));
    assert!(read("a") != read("c"));

    let again = synth("2", "a");
    assert!(again.refused(2).contains("the file exists"), "{again:?}");
    assert!(read("a") == read("b"), "a refusal changes nothing");
    bitnet(["synth", "--seed", "2", "--force", &at("a")]).done();
    assert!(read("a") == read("c"));
}

#[test]
fn every_shape_that_is_small_runs() {
    let folder = tempfile::tempdir().unwrap();
    for shape in ["tiny", "small", "hd96", "hd100"] {
        let path = folder.path().join(format!("{shape}.gguf"));
        let path = path.to_str().unwrap();
        words(&format!("synth --shape {shape} --layers 1 {path}")).done();
        words(&format!("inspect {path}")).done();
        let ran = words(&format!("run -m {path} -p abc -n 3 --greedy --ignore-eos --json -q"));
        let object: Value = serde_json::from_str(ran.done()).unwrap();
        assert_eq!(object["tokens"].as_array().unwrap().len(), 3, "{shape}");
    }
}
