//! `bitnet parity`: two runs' tokens and logits side by side, or one run's written down.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::path::Path;

use bitnet_core::gguf::replace_file;
use bitnet_core::parity::{Comparison, Log, Step, TOP_K, Verdict, compare, line, top_k};
use bitnet_core::{Error, Sampler, SamplerOptions, Session, WantedLogits};
use serde_json::{Value, json};

use super::load::{self, load, session_options};
use super::prompt;
use crate::args::{CompareArgs, LogSource, ParityArgs, RecordArgs};
use crate::exit::Failure;
use crate::interrupt;
use crate::output::{Output, shown};
use crate::place;

/// More than the engine reads of a log; an endless pipe is refused there instead of filling the memory.
const MAX_BYTES: u64 = (256 << 20) + 1;

/// Compares or records.
pub(crate) fn parity(args: &ParityArgs) -> Result<(), Failure> {
    match args {
        ParityArgs::Compare(args) => compare_logs(args),
        ParityArgs::Record(args) => record(args),
    }
}

fn compare_logs(args: &CompareArgs) -> Result<(), Failure> {
    let [a, b] = &args.logs;
    let (a, b) = (read(a)?, read(b)?);
    let compared = compare(&a, &b)?;
    let matches = matches(&compared, args);
    let answer = if args.json {
        format!("{:#}\n", as_json(&a, &b, &compared, matches))
    } else {
        as_text(&a, &b, &compared)
    };
    Output::stdout().before_verdict(&answer)?;
    if matches { Ok(()) } else { Err(Failure::Mismatch) }
}

/// Whether the exit code is 0.
fn matches(compared: &Comparison, args: &CompareArgs) -> bool {
    let same = match compared.verdict {
        Verdict::Identical => true,
        Verdict::SameTokens => args.tokens_only,
        Verdict::DivergedAt(_) => false,
    };
    same && (args.prefix || compared.only_in == [0, 0])
}

fn read(source: &LogSource) -> Result<Log, Failure> {
    let log = match source {
        LogSource::File(path) => Log::read(path),
        LogSource::Pipe => {
            let (path, mut bytes) = (Path::new("stdin"), Vec::new());
            match io::stdin().lock().take(MAX_BYTES).read_to_end(&mut bytes) {
                Ok(_) => Log::parse(path, &bytes),
                Err(source) => Err(Error::Io { path: path.to_owned(), action: "read", source }),
            }
        }
    };
    log.map_err(|error| match error {
        // A broken log is not a broken model: the command line gave the wrong file.
        Error::Malformed { .. } => Failure::Misuse(error.to_string()),
        error => Failure::Engine(error),
    })
}

fn as_text(a: &Log, b: &Log, compared: &Comparison) -> String {
    let c = compared;
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, log, only) in [("a", a, c.only_in[0]), ("b", b, c.only_in[1])] {
        let _ = write!(text, "{name}: {}, {} steps", shown(&log.path), log.steps.len());
        if only > 0 {
            let _ = write!(text, ", {only} of them only here");
        }
        text += "\n";
    }
    let _ = writeln!(text, "steps compared:   {}", c.steps);
    let first = match c.first_difference {
        Some(step) => format!("step {step}{}", tokens(a, b, step)),
        None => "none".to_owned(),
    };
    let _ = writeln!(text, "first difference: {first}");
    let at = c.max_difference_at.map_or_else(String::new, |(step, id)| format!(" (step {step}, token {id})"));
    let _ = writeln!(text, "logits compared:  {}", c.shared_logits);
    if c.shared_logits > 0 {
        let _ = writeln!(text, "max difference:   {}{at}", number(c.max_difference));
        let _ = writeln!(text, "rms difference:   {}", number(c.rms_difference));
    }
    let _ = writeln!(text, "ranks compared:   {}", c.ranks);
    if let Some(share) = c.rank_agreement {
        let _ = writeln!(text, "rank agreement:   {:.2} %", share * 100.0);
    }
    let _ = writeln!(text, "verdict: {}", c.verdict);
    text
}

/// What the two logs chose at `step`, if that is what differs.
fn tokens(a: &Log, b: &Log, step: u64) -> String {
    let at = |log: &Log| {
        let token = |s: &Step| (s.step == step).then_some(s.token);
        log.steps.iter().find_map(token)
    };
    match (at(a), at(b)) {
        (Some(a), Some(b)) if a != b => format!(", token {a} in a, {b} in b"),
        _ => String::new(),
    }
}

fn number(difference: f64) -> String {
    if difference == 0.0 { "0".to_owned() } else { format!("{difference:.4e}") }
}

fn as_json(a: &Log, b: &Log, compared: &Comparison, matches: bool) -> Value {
    let c = compared;
    let log = |log: &Log, only: usize| {
        json!({
            "path": log.path.to_string_lossy(),
            "steps": log.steps.len(),
            "only_here": only,
            "skipped_lines": log.skipped_lines,
        })
    };
    let difference = |value: f64| match value {
        _ if c.shared_logits == 0 => Value::Null,
        value if value.is_finite() => value.into(),
        _ => "Infinity".into(),
    };
    let diverged_at = match c.verdict {
        Verdict::DivergedAt(step) => Some(step),
        Verdict::Identical | Verdict::SameTokens => None,
    };
    json!({
        "verdict": c.verdict.to_string(),
        "match": matches,
        "diverged_at": diverged_at,
        "steps": c.steps,
        "first_difference": c.first_difference,
        "shared_logits": c.shared_logits,
        "max_difference": difference(c.max_difference),
        "max_difference_at": c.max_difference_at.map(|(step, token)| json!({ "step": step, "token": token })),
        "rms_difference": difference(c.rms_difference),
        "ranks": c.ranks,
        "rank_agreement": c.rank_agreement,
        "a": log(a, c.only_in[0]),
        "b": log(b, c.only_in[1]),
    })
}

/// Writes the log of a greedy run: all of it or nothing.
fn record(args: &RecordArgs) -> Result<(), Failure> {
    if let LogSource::File(path) = &args.out {
        let taken = "the file exists (--force overwrites it)";
        let what = format!("--record {}", path.display());
        place::check_late(&what, path, args.force, taken)?;
        place::spare(&what, path, args.force, || load::files_and_prompt(&args.model, &args.prompt))?;
    }
    let loaded = load(&args.model)?;
    let ids = prompt::ids(&args.prompt, loaded.tokenizer.as_ref())?;
    interrupt::watch();
    let mut session = Session::new(&loaded.model, &session_options(&args.model))?;
    // The last token is chosen and never evaluated. Known now, it is not found out after minutes.
    let wanted = ids.len() + args.n_tokens - 1;
    if wanted > session.n_ctx() {
        return Err(Error::ContextFull { wanted, n_ctx: session.n_ctx() }.into());
    }

    let mut sampler = Sampler::new(SamplerOptions::greedy())?;
    let (mut log, mut pending) = (String::new(), ids);
    for step in 0..args.n_tokens as u64 {
        if !session.advance(&pending, WantedLogits::All, || !interrupt::pressed())? {
            return Err(Failure::Interrupted);
        }
        let logits = session.last_logits();
        let token = sampler.sample(logits);
        log += &line(step, token, &top_k(logits, TOP_K));
        log += "\n";
        pending = vec![token];
    }
    match &args.out {
        LogSource::Pipe => Output::stdout().all(&log),
        LogSource::File(path) => Ok(replace_file(place::target(path, args.force), |file| {
            let written = file.write_all(log.as_bytes());
            written.map_err(|source| Error::Io { path: path.clone(), action: "write", source })
        })?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &str) -> Log {
        Log::parse(Path::new("x.log"), lines.as_bytes()).unwrap()
    }

    fn args(tokens_only: bool, prefix: bool) -> CompareArgs {
        CompareArgs { logs: [LogSource::Pipe, LogSource::Pipe], tokens_only, prefix, json: false }
    }

    #[test]
    fn only_what_a_flag_allows_may_differ() {
        let one = log("{\"step\":0,\"token\":1,\"top_k\":[[1,2.0]]}");
        let longer = log("{\"step\":0,\"token\":1,\"top_k\":[[1,2.0]]}\n{\"step\":1,\"token\":1}");
        let other_logit = log("{\"step\":0,\"token\":1,\"top_k\":[[1,2.5]]}");
        let other_token = log("{\"step\":0,\"token\":2,\"top_k\":[[2,2.0]]}");
        for (other, expected) in [
            // With neither flag, --tokens-only, --prefix.
            (&one, [true, true, true]),
            (&longer, [false, false, true]),
            (&other_logit, [false, true, false]),
            (&other_token, [false, false, false]),
        ] {
            let compared = compare(&one, other).unwrap();
            let flags = [(false, false), (true, false), (false, true)];
            let found = flags.map(|(tokens_only, prefix)| matches(&compared, &args(tokens_only, prefix)));
            assert_eq!(found, expected, "{compared:?}");
        }
    }

    #[test]
    fn an_infinite_difference_is_valid_json() {
        let a = log("{\"step\":0,\"token\":1,\"top_k\":[[1,\"NaN\"]]}");
        let b = log("{\"step\":0,\"token\":1,\"top_k\":[[1,1.0]]}");
        let json = as_json(&a, &b, &compare(&a, &b).unwrap(), false);
        assert_eq!(json["max_difference"], "Infinity");
        assert!(
            as_text(&a, &b, &compare(&a, &b).unwrap()).contains("max difference:   inf (step 0, token 1)")
        );
    }
}
