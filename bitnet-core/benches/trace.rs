//! What a span costs, unset and recording, against the same function without its annotation.
//!
//! `cargo bench -p bitnet-core --features instrument --bench trace` prints nanoseconds per span: the median
//! and spread of eleven runs, the two functions taking turns. It checks that every call was recorded.
//! With `-- --check` it fails above the limits it prints. Without the feature both functions are the same.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and panics if it cannot be set up"
)]

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use bitnet_core::trace::{self, trace_timing};

#[inline(never)]
fn bare(x: u64) -> u64 {
    x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7)
}

#[trace_timing]
#[inline(never)]
fn spanned(x: u64) -> u64 {
    x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7)
}

#[trace_timing(with_fields, rows = x, bytes = 64usize)]
#[inline(never)]
fn with_fields(x: u64) -> u64 {
    x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7)
}

const RUNS: usize = 11;

/// Nanoseconds per call, and the last answer.
fn time(n: u32, f: impl Fn(u64) -> u64) -> (f64, u64) {
    let mut x = 1;
    let start = Instant::now();
    for _ in 0..n {
        x = f(black_box(x));
    }
    (start.elapsed().as_nanos() as f64 / f64::from(n), x)
}

/// Extra nanoseconds per call of `f` over [`bare`]: smallest, median and largest of the runs.
fn extra(n: u32, f: impl Fn(u64) -> u64) -> [f64; 3] {
    let mut extras = [0.0; RUNS];
    for extra in &mut extras {
        let (without, expected) = time(n, bare);
        let (with, found) = time(n, &f);
        assert_eq!(expected, found, "an annotation changed an answer");
        *extra = with - without;
    }
    extras.sort_by(f64::total_cmp);
    [extras[0], extras[RUNS / 2], extras[RUNS - 1]]
}

fn calls(name: &str) -> u64 {
    trace::report().iter().filter(|row| row.name == name).map(|row| row.calls).sum()
}

/// Spans of a name in a trace file, which has one on a line.
fn in_file(path: &Path, name: &str) -> u64 {
    let start = format!("{{\"name\":\"{name}\"");
    let file = BufReader::new(File::open(path).unwrap());
    file.lines().filter(|line| line.as_ref().unwrap().starts_with(&start)).count() as u64
}

fn main() -> ExitCode {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let check = std::env::args().any(|arg| arg == "--check");
    // So many that a file's spans fit into the memory prepared when recording begins.
    let n: u32 = if measured { 25_000 } else { 100 };
    let recorded = RUNS as u64 * u64::from(n);
    let mut within = true;
    let mut show = |what: &str, [low, median, high]: [f64; 3], limit: f64| {
        println!("{what:<34} {median:6.2} ns per span ({low:.2} to {high:.2}), limit {limit}");
        within &= median <= limit;
    };

    let unset_n = if measured { 20_000_000 } else { n };
    show("unset", extra(unset_n, spanned), 1.0);
    if trace::AVAILABLE {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trace.json");
        trace::record_to(&file).unwrap();
        show("recording for a file", extra(n, spanned), 40.0);
        show("recording for a file, two fields", extra(n, with_fields), 40.0);
        trace::finish().unwrap();
        assert_eq!((in_file(&file, "spanned"), in_file(&file, "with_fields")), (recorded, recorded));

        assert_eq!(calls("spanned"), 0, "nothing is counted before there is a profile");
        trace::profile().unwrap();
        show("recording for a profile", extra(n, spanned), 40.0);
        assert_eq!((calls("spanned"), calls("with_fields")), (recorded, 0));
    }
    if check && !within { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
