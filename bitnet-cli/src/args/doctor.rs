//! `bitnet doctor`.

use super::line::{Flag, Line};
use super::model::MAX_THREADS;
use super::{Command, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "doctor",
    summary: "test this machine's kernels and measure what it can do",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Says what this machine has and can do: processors and memory within the limits set for this
process; every instruction set there are kernels for, executed and compared bit by bit with the
scalar definition; how fast memory is read and int8 products are made; and what a model of 2.4
billion parameters would run at, estimated from these two. Takes about three seconds.

Usage: bitnet doctor [flags]

Examples:
  bitnet doctor --json | jq .estimate
  bitnet doctor -t 1

Flags:
  -t, --threads N  threads to measure with (default: the processors this process may use)
      --json       one JSON object
  -q, --quiet      nothing on stderr when all goes well
  -h, --help       this text

Exits 5 if a kernel computes something else than the scalar definition.
";

const FLAGS: &[Flag] =
    &[Flag::one(&["-t", "--threads"]), Flag::switch(&["--json"]), Flag::switch(&["-q", "--quiet"])];

/// `bitnet doctor`, understood.
#[derive(Debug)]
pub(crate) struct DoctorArgs {
    pub(crate) n_threads: Option<usize>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    let n_threads = line.number("--threads", 1..=MAX_THREADS)?;
    Ok(Command::Doctor(DoctorArgs { n_threads, json: line.has("--json"), quiet: line.has("--quiet") }))
}
