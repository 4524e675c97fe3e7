//! `bitnet profile`: a table where the annotations are, the way to them where they are not.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as tests do")]

use crate::golden::Golden;
use crate::support::{Ran, words};
use serde_json::Value;

/// The JSON of a profile with its stderr; nothing in a plain build, which must refuse it with the way out.
#[track_caller]
fn profile(golden: &Golden, flags: &str) -> Option<(Value, String)> {
    let ran: Ran = golden.verb("profile --json", flags, &[]).output().unwrap().into();
    if cfg!(feature = "instrument") {
        return Some((serde_json::from_str(ran.done()).unwrap(), ran.stderr));
    }
    refused_by_a_plain_build(&ran);
    None
}

#[track_caller]
fn refused_by_a_plain_build(ran: &Ran) {
    let says = "profile: this binary was built without `instrument`; \
                `cargo build --release --features instrument` builds one that traces";
    assert_eq!(ran.refused(2), says);
}

#[test]
fn a_build_that_cannot_says_so_before_it_looks_for_the_model() {
    let ran = words("profile -m no/such.gguf -p x");
    if cfg!(feature = "instrument") {
        assert!(ran.refused(1).starts_with("cannot open no/such.gguf: "), "{ran:?}");
    } else {
        refused_by_a_plain_build(&ran);
    }
}

#[test]
fn the_table_has_a_line_for_every_operation() {
    let golden = Golden::of("b158-tiny");
    let ran: Ran = golden.verb("profile", "-t 1 --isa scalar", &[]).output().unwrap().into();
    if !cfg!(feature = "instrument") {
        return refused_by_a_plain_build(&ran);
    }
    assert!(ran.done().starts_with("isa scalar, threads 1\nprompt eval: "), "{ran:?}");
    let (_, table) = ran.stdout.split_once("\n\n").unwrap();
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let last = ["GB/s", "GMAC/s", "%", "of", "ceiling"];
    assert_eq!(
        head,
        [&["operation", "calls", "total", "ms", "own", "ms", "share", "MB"][..], &last].concat()
    );
    let operations: Vec<&str> = lines.map(|line| line.split_whitespace().next().unwrap()).collect();
    for operation in [
        "session::forward",
        "forward::attention",
        "model::matrix::product::matrix",
        "kernels::ternary::gemv_i2s",
    ] {
        assert!(operations.contains(&operation), "{table}");
    }
}

#[test]
fn calls_and_bytes_are_those_of_the_run_and_shares_add_up() {
    let golden = Golden::of("llama-tiny");
    for flags in ["-t 1", "-t 2"] {
        let Some((answer, stderr)) = profile(&golden, flags) else { return };
        assert_eq!(stderr, "");
        let rows = answer["operations"].as_array().unwrap();
        let row =
            |name: &str| rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}"));
        let n = golden.generated.len();
        for phase in ["embed", "forward", "logits", "sample"] {
            assert_eq!(row(phase)["calls"], n, "{phase}");
        }
        assert!(row("gemv_i2s")["bytes"].as_u64().unwrap() > 0);
        assert!(row("matrix")["gb_per_s"].as_f64().unwrap() > 0.0);
        assert!(row("matrix")["gmac_per_s"].as_f64().unwrap() > 0.0);
        let shares: f64 = rows.iter().filter_map(|row| row["share"].as_f64()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        let waits = rows.iter().filter(|row| row["share"].is_null()).count();
        assert_eq!(
            waits,
            usize::from(cfg!(feature = "cpu") && flags.ends_with('2')),
            "{flags}: only waiting has no share"
        );
        for row in rows {
            assert!(row["own_ms"].as_f64() <= row["total_ms"].as_f64(), "{row}");
        }
    }
}

#[test]
fn on_one_thread_own_times_add_up_to_the_run() {
    let golden = Golden::of("b158-small");
    let mut tried = Vec::new();
    // Another program may interrupt between two operations: the best of several runs counts.
    for _ in 0..10 {
        let Some((answer, _)) = profile(&golden, "-t 1 --isa scalar") else { return };
        let rows = answer["operations"].as_array().unwrap();
        let own: f64 = rows.iter().map(|row| row["own_ms"].as_f64().unwrap()).sum();
        let wall = answer["prompt"]["ms"].as_f64().unwrap() + answer["eval"]["ms"].as_f64().unwrap();
        tried.push(own / wall);
        if (0.98..=1.0001).contains(&(own / wall)) {
            return;
        }
    }
    panic!("own times are these shares of the run: {tried:?}");
}

#[test]
fn a_trace_beside_the_table_has_the_same_calls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    let golden = Golden::of("b158-tiny");
    let Some((answer, stderr)) = profile(&golden, &format!("--trace {}", path.display())) else { return };
    let calls: u64 =
        answer["operations"].as_array().unwrap().iter().map(|row| row["calls"].as_u64().unwrap()).sum();
    assert_eq!(stderr, format!("bitnet: {}: {calls} spans\n", path.display()));
    let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let spans = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
    assert_eq!(spans.count() as u64, calls);

    let again: Ran =
        golden.verb("profile", &format!("--trace {}", path.display()), &[]).output().unwrap().into();
    assert!(again.refused(2).ends_with("the file exists (--force overwrites it)"), "{again:?}");
    profile(&golden, &format!("--force --trace {}", path.display())).unwrap();
    let ran: Ran = golden.verb("profile", "--trace /no/such/folder/t.json", &[]).output().unwrap().into();
    assert!(ran.refused(2).ends_with("its folder does not exist"), "{ran:?}");
    let ran: Ran = golden.verb("profile", "--force", &[]).output().unwrap().into();
    assert_eq!(ran.refused(2), "--force: belongs to --trace; expected --trace FILE with it");
}
