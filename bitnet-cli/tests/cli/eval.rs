//! `bitnet eval` on a tiny synthetic model, which repeats what it heard last: after an end token, it ends.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Ran, command};
use crate::tiny::{on_tiny, on_tiny_args, tiny, with_stdin};

const QUESTIONS: &str = "end\tUser: hi<|eot_id|>\t\n\
                         end\ta\\nb\\t\\\\<|eot_id|>\t\n\
                         say\tab\tab\n\
                         say\tx<|eot_id|>\tx\n";

fn eval(flags: &str) -> Ran {
    with_stdin(on_tiny_args("eval", &format!("--data - {flags}")), QUESTIONS.as_bytes())
}

fn object(flags: &str) -> Value {
    let ran = eval(&format!("{flags} --json"));
    assert!(matches!(ran.code, Some(0 | 5)), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn a_right_answer_is_the_whole_text_and_ends() {
    let object = object("--min end=99.5");
    let score = |i: usize| (object["scores"][i]["task"].clone(), object["scores"][i]["right"].clone());
    assert_eq!(score(0), (json!("end"), json!(2)));
    assert_eq!(score(1), (json!("say"), json!(0)));
    assert_eq!(score(2), (json!("total"), json!(2)));
    assert_eq!((&object["scores"][0]["min"], &object["scores"][1]["min"]), (&json!(99.5), &Value::Null));
    // Two ways to be wrong: to go on after the answer, and to end before it.
    let misses = object["misses"].as_array().unwrap();
    assert_eq!(misses.len(), 2);
    assert_eq!((&misses[0]["prompt"], &misses[0]["ended"]), (&json!("ab"), &json!(false)));
    assert!(misses[0]["found"].as_str().unwrap().starts_with("abab"), "{object}");
    assert_eq!((&misses[1]["found"], &misses[1]["ended"]), (&json!(""), &json!(true)));
}

#[test]
fn the_table_has_a_line_for_each_task() {
    let ran = eval("-q");
    let lines: Vec<String> =
        ran.done().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["end 2 of 2 100.00 %", "say 0 of 2 0.00 %", "total 2 of 4 50.00 %"]);
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_score_below_the_minimum_exits_5_after_the_table() {
    let ran = eval("-q --min end=100 --min say=1 --min total=50.5");
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(5), 3), "{ran:?}");
    let short = "bitnet: say: 0.00 % are right, --min asks for 1 %\n\
                 bitnet: total: 50.00 % are right, --min asks for 50.5 %\n";
    assert_eq!(ran.stderr, short);
}

#[test]
fn a_receipt_is_written_even_for_a_score_below_the_minimum() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("data"), QUESTIONS).unwrap();
    let line = format!("--data {} --min say=1 -q --receipt {}", path("data"), path("receipt"));
    assert_eq!(on_tiny("eval", &line).code, Some(5));
    let receipt: Value = serde_json::from_slice(&fs::read(path("receipt")).unwrap()).unwrap();
    for key in ["schema", "date", "command", "build", "machine", "isa", "threads"] {
        assert!(!receipt[key].is_null(), "{key}");
    }
    assert_eq!((&receipt["kind"], &receipt["data"]["bytes"]), (&json!("eval"), &json!(QUESTIONS.len())));
    assert_eq!(receipt["model"]["bytes"], fs::metadata(tiny()).unwrap().len());
    let printed = object("--min say=1");
    for key in ["scores", "misses", "logits_sha256"] {
        assert_eq!(receipt[key], printed[key], "{key}");
    }
    assert!(on_tiny("eval", &line).refused(2).contains("the file exists"));
}

/// A pipe is read once: what a receipt says of it is what was read.
#[cfg(target_os = "linux")]
#[test]
fn a_receipt_names_questions_from_a_pipe_by_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let receipt = folder.path().join("receipt");
    let mut sums = Vec::new();
    for data in ["-", "/dev/stdin"] {
        let line = format!("--data {data} -q --force --receipt {}", receipt.display());
        with_stdin(on_tiny_args("eval", &line), QUESTIONS.as_bytes()).done();
        let receipt: Value = serde_json::from_slice(&fs::read(&receipt).unwrap()).unwrap();
        assert_eq!(
            (&receipt["data"]["path"], &receipt["data"]["bytes"]),
            (&json!(data), &json!(QUESTIONS.len()))
        );
        sums.push(receipt["data"]["sha256"].clone());
    }
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn a_receipt_names_the_binary_as_it_lies_in_the_current_folder() {
    let folder = tempfile::tempdir().unwrap();
    let receipt = folder.path().join("receipt").to_str().unwrap().to_owned();
    let binary = Path::new(env!("CARGO_BIN_EXE_bitnet"));
    for (here, expected) in [
        (
            binary.ancestors().nth(2).unwrap(),
            binary.strip_prefix(binary.ancestors().nth(2).unwrap()).unwrap(),
        ),
        (folder.path(), binary),
    ] {
        fs::write(folder.path().join("data"), QUESTIONS).unwrap();
        let data = folder.path().join("data").to_str().unwrap().to_owned();
        let line = format!("-q --force --data {data} --receipt {receipt}");
        let ran: Ran = command(on_tiny_args("eval", &line)).current_dir(here).output().unwrap().into();
        ran.done();
        let object: Value = serde_json::from_slice(&fs::read(&receipt).unwrap()).unwrap();
        let path = object["build"]["binary"]["path"].as_str().unwrap();
        assert_eq!(path, expected.to_str().unwrap(), "in {}", here.display());
    }
}

#[test]
fn every_logit_is_the_same_however_it_is_computed() {
    let expected = object("");
    assert_eq!(expected["logits_sha256"].as_str().unwrap().len(), 64);
    for flags in ["--isa scalar", "-t 1", "-t 2", "-b 1", "--no-mmap"] {
        assert_eq!(object(flags), expected, "{flags}");
    }
}

#[test]
fn bad_questions_and_minimums_are_refused_by_name() {
    let ran = with_stdin(on_tiny_args("eval", "--data -"), b"a\tb\n");
    assert_eq!(ran.refused(2), "--data -: line 1: expected task, prompt and answer, found 2 fields");
    assert!(on_tiny("eval", "--data no/such.tsv").refused(1).starts_with("cannot open no/such.tsv: "));
    assert_eq!(eval("--min sum=1").refused(2), "--min sum: no such task; expected one of end, say, total");
    for bad in ["--min say", "--min say=x", "--min say=101", "--min =1", "--min say=NaN"] {
        assert!(eval(bad).refused(2).contains("expected a task and a number from 0 to 100"), "{bad}");
    }
    assert!(on_tiny("eval", "").refused(2).starts_with("--data: expected a file of questions"));
}

#[test]
fn a_question_that_the_context_does_not_hold_is_named_by_its_line() {
    let says = |questions: &str, ctx: usize| {
        let ran = with_stdin(on_tiny_args("eval", &format!("-c {ctx} --data -")), questions.as_bytes());
        ran.refused(1).to_owned()
    };
    // Before any is asked: the first of these would fail later, since its reply goes on.
    let prompt = says("say\tab\tab\n\nsay\tabcdefghijklmnopqrstuvwxyz\t\n", 5);
    assert!(
        prompt.starts_with("--data -: line 3: expected at most 5 tokens with the reply, found "),
        "{prompt}"
    );
    assert!(!prompt.contains("found 6 "), "{prompt}");
    let reply = says("end\ta<|eot_id|>\t\nsay\tab\tabababab\n", 5);
    let expected = "--data -: line 2: expected at most 5 tokens with the reply, found 6 (see --ctx-size)";
    assert_eq!(reply, expected);
}
