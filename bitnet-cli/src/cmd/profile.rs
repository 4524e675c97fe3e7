//! `bitnet profile`: where the time of a run goes.

use std::fmt::Write as _;

use bitnet_core::trace::{self, Row};
use bitnet_core::{Sampler, SamplerOptions, Session, StopReason};
use serde_json::{Value, json};

use super::bench::ceiling::Ceiling;
use super::generate::{Ended, Outcome, generate};
use super::load::{self, load, session_options};
use super::prompt;
use crate::args::ProfileArgs;
use crate::exit::Failure;
use crate::interrupt;
use crate::output::Output;
use crate::place;

/// Runs, counts and prints the table.
pub(crate) fn profile(args: &ProfileArgs) -> Result<(), Failure> {
    if !trace::AVAILABLE {
        trace::profile()?; // which says how to build the binary that can
    }
    if let Some(file) = &args.trace {
        let what = format!("--trace {}", file.display());
        place::check_late(&what, file, args.force, "the file exists (--force overwrites it)")?;
        place::spare(&what, file, args.force, || load::files_and_prompt(&args.model, &args.prompt))?;
    }
    let loaded = load(&args.model)?;
    let ids = prompt::ids(&args.prompt, loaded.tokenizer.as_ref())?;
    interrupt::watch();
    let mut session = Session::new(&loaded.model, &session_options(&args.model))?;
    let mut sampler = Sampler::new(SamplerOptions::greedy())?;
    // Pages of the file, the threads' first steps, what the first choice of a kind makes once.
    session.advance(&ids[..1], sampler.wanted(), || true)?;
    session.clear();
    // Before anything is recorded: probes run kernels, too.
    let bytes_per_token = loaded.model.decode_bytes(sampler.wanted(), session.sifted(), session.skipped());
    let ceiling = Ceiling::probe(session.n_threads(), bytes_per_token)?;

    if let Some(file) = &args.trace {
        trace::record_to(place::target(file, args.force))?;
    }
    trace::profile()?;
    let done = generate(&mut session, &mut sampler, &ids, Some(args.n_tokens), &[], |_| Ok(false))?;
    let rows = trace::report();

    let circumstances = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": loaded.model.gguf().path().to_string_lossy(),
        "isa": loaded.model.kernels().isa().name(),
        "threads": session.n_threads(),
        "ceiling_gb_per_s": ceiling.map(|ceiling| ceiling.bytes / 1e9),
        "ceiling_gmac_per_s": ceiling.map(|ceiling| ceiling.macs / 1e9),
    });
    let n_threads = session.n_threads() as f64;
    let of_one = ceiling.map(|all| Ceiling { bytes: all.bytes / n_threads, macs: all.macs / n_threads });
    let answer = if args.json {
        format!("{:#}\n", as_json(circumstances, &done, &rows, of_one))
    } else {
        as_text(&circumstances, &done, &rows, of_one)
    };
    Output::stdout().all(&answer)?;
    if done.ended == Ended::Engine(StopReason::Interrupted) { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Whether the row is a thread waiting while others work: their time is in other rows.
fn waits(row: &Row) -> bool {
    (row.module, row.name) == ("bitnet_core::team", "wait")
}

/// Share of all own time, 0 to 1.
fn share(row: &Row, rows: &[Row]) -> Option<f64> {
    let all: f64 = rows.iter().filter(|row| !waits(row)).map(|row| row.own.as_secs_f64()).sum();
    (!waits(row) && all > 0.0).then(|| row.own.as_secs_f64() / all)
}

/// Billions of `count` that one thread did in a second; nothing for operations that do not count them.
fn giga_per_s(row: &Row, count: u64) -> Option<f64> {
    let seconds = row.total.as_secs_f64();
    (count > 0 && seconds > 0.0).then(|| count as f64 / seconds / 1e9)
}

/// Percent of what one thread could do at most: of reading or of multiplying, whichever it is nearer to.
fn percent(row: &Row, ceiling: Option<Ceiling>) -> Option<f64> {
    let Ceiling { bytes, macs } = ceiling?;
    let rates = [(row.bytes, bytes), (row.macs, macs)]
        .map(|(count, most)| Some(giga_per_s(row, count)? * 1e9 / most * 100.0));
    rates.into_iter().flatten().reduce(f64::max)
}

/// Module and name without the crate they share.
fn operation(row: &Row) -> String {
    let module = row.module.strip_prefix("bitnet_core::").unwrap_or(row.module);
    format!("{module}::{}", row.name)
}

fn as_text(circumstances: &Value, done: &Outcome, rows: &[Row], ceiling: Option<Ceiling>) -> String {
    let head = ["operation", "calls", "total ms", "own ms", "share", "MB", "GB/s", "GMAC/s", "% of ceiling"]
        .map(str::to_owned);
    let optional = |value: Option<f64>, digits: usize, unit: &str| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}{unit}"))
    };
    let cells = rows.iter().map(|row| {
        [
            operation(row),
            row.calls.to_string(),
            format!("{:.3}", row.total.as_secs_f64() * 1e3),
            format!("{:.3}", row.own.as_secs_f64() * 1e3),
            optional(share(row, rows).map(|share| share * 100.0), 2, " %"),
            optional((row.bytes > 0).then_some(row.bytes as f64 / 1e6), 2, ""),
            optional(giga_per_s(row, row.bytes), 2, ""),
            optional(giga_per_s(row, row.macs), 1, ""),
            optional(percent(row, ceiling), 1, ""),
        ]
    });
    let lines: Vec<[String; 9]> = [head].into_iter().chain(cells).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);

    let mut text = String::new();
    let (isa, threads) = (circumstances["isa"].as_str().unwrap_or_default(), &circumstances["threads"]);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "isa {isa}, threads {threads}");
    for (name, phase) in [("prompt eval:", done.prompt), ("eval:       ", done.eval)] {
        let (ms, n, speed) = (phase.ms(), phase.n, phase.tok_per_s());
        let _ = writeln!(text, "{name} {ms:10.2} ms / {n:5} tokens ({speed:.2} tokens/s)");
    }
    text += "\n";
    for line in &lines {
        let mut row = format!("{:width$}", line[0], width = widths[0]);
        for (cell, width) in line[1..].iter().zip(&widths[1..]) {
            let _ = write!(row, "  {cell:>width$}");
        }
        text += row.trim_end();
        text += "\n";
    }
    text
}

fn as_json(mut circumstances: Value, done: &Outcome, rows: &[Row], ceiling: Option<Ceiling>) -> Value {
    for (name, phase) in [("prompt", done.prompt), ("eval", done.eval)] {
        circumstances[name] = json!({ "n": phase.n, "ms": phase.ms(), "tok_per_s": phase.tok_per_s() });
    }
    let operation = |row: &Row| {
        json!({
            "module": row.module,
            "name": row.name,
            "calls": row.calls,
            "total_ms": row.total.as_secs_f64() * 1e3,
            "own_ms": row.own.as_secs_f64() * 1e3,
            "share": share(row, rows),
            "bytes": row.bytes,
            "gb_per_s": giga_per_s(row, row.bytes),
            "macs": row.macs,
            "gmac_per_s": giga_per_s(row, row.macs),
            "percent_of_ceiling": percent(row, ceiling),
        })
    };
    circumstances["operations"] = rows.iter().map(operation).collect();
    circumstances
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::generate::Phase;
    use super::*;

    fn example() -> (Outcome, Vec<Row>) {
        let row = |module, name, own_ms, bytes| Row {
            name,
            module,
            calls: 3,
            total: Duration::from_millis(2 * own_ms),
            own: Duration::from_millis(own_ms),
            bytes,
            macs: 10 * bytes,
        };
        let rows = vec![
            row("bitnet_core::team", "wait", 40, 0),
            row("bitnet_core::kernels", "gemv_i2s", 30, 600_000_000),
            row("bitnet_core::forward", "attention", 10, 0),
        ];
        let phase = Phase { n: 1, time: Duration::from_millis(40) };
        let ended = Ended::Engine(StopReason::Length);
        (Outcome { ids: vec![1], ended, end_token: None, prompt: phase, eval: phase, wall: phase.time }, rows)
    }

    #[test]
    fn shares_are_of_working_time_and_bandwidth_is_of_total_time() {
        let (done, rows) = example();
        let text = as_text(&json!({ "isa": "scalar", "threads": 2 }), &done, &rows, None);
        let (_, table) = text.split_once("\n\n").unwrap();
        let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(cells[1], ["team::wait", "3", "80.000", "40.000"]);
        assert_eq!(
            cells[2],
            ["kernels::gemv_i2s", "3", "60.000", "30.000", "75.00", "%", "600.00", "10.00", "100.0"]
        );
        assert_eq!(cells[3], ["forward::attention", "3", "20.000", "10.000", "25.00", "%"]);
    }

    #[test]
    fn json_says_the_same() {
        let (done, rows) = example();
        let json = as_json(json!({ "isa": "scalar" }), &done, &rows, None);
        assert_eq!(json["operations"][0]["share"], Value::Null);
        assert_eq!(json["operations"][1]["share"], 0.75);
        assert_eq!(json["operations"][1]["gb_per_s"], 10.0);
        assert_eq!(json["operations"][1]["gmac_per_s"], 100.0);
        assert_eq!(json["operations"][2]["gmac_per_s"], Value::Null);
        assert_eq!((&json["prompt"]["n"], &json["isa"]), (&json!(1), &json!("scalar")));
        assert_eq!(json["operations"][1]["percent_of_ceiling"], Value::Null, "nothing was probed");
    }

    #[test]
    fn an_operation_is_held_against_the_ceiling_that_it_is_nearer_to() {
        // 10 GB/s and 100 GMAC/s.
        let (done, rows) = example();
        for (bytes, macs, expected) in [(20e9, 1e12, 50.0), (40e9, 125e9, 80.0)] {
            let ceiling = Some(Ceiling { bytes, macs });
            let json = as_json(json!({}), &done, &rows, ceiling);
            let found: Vec<&Value> =
                json["operations"].as_array().unwrap().iter().map(|row| &row["percent_of_ceiling"]).collect();
            assert_eq!(found, [&Value::Null, &json!(expected), &Value::Null]);
            let text = as_text(&json!({}), &done, &rows, ceiling);
            assert!(text.lines().any(|line| line.ends_with(&format!("  {expected:.1}"))), "{text}");
        }
    }
}
