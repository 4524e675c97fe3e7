//! `bitnet bench`.

use std::path::PathBuf;

use bitnet_core::WantedLogits;
use bitnet_core::synth::SynthShape;

use super::line::{Flag, Line};
use super::model::{MAX_POSITIONS, MAX_THREADS};
use super::{Command, ModelArgs, ReadingArgs, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "bench",
    summary: "measure prefill and decode, and write a receipt",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Measures tokens per second: pp128 is prefill of 128 tokens, tg32 decode of 32. Every row is warmed
up once and repeated; repetitions are interleaved, so that a slow minute hurts all rows alike.
Of a model too large for caches, decode is also given as a share of the memory bandwidth measured
before and after, prefill of the multiply rate; a share above 100 % is an error of measuring, and
then nothing is reported (exit code 5).

Usage: bitnet bench [-m FILE | --synthetic SHAPE] [flags]

Examples:
  bitnet bench -p 64 -n 16
  bitnet bench -m model.gguf
  bitnet bench --synthetic 2b4t -p 128,512 -n 32 -t 1,2 -r 10
  bitnet bench -m model.gguf -p 0 -n 64 -d 0,1024 -o json --receipt receipts/decode.json

Flags:
  -m, --model FILE      a GGUF file or a checkpoint's directory (default: the demo model)
      --synthetic SHAPE a synthetic model instead, written to a temporary file and removed:
                        tiny, small, mid, hd96, hd100, large or 2b4t
  -p, --n-prompt LIST   prompt lengths to measure, 0 for none (default 128,512)
  -n, --n-gen LIST      tokens to generate, 0 for none (default 32,128)
  -d, --depth LIST      positions already in the context when measuring (default 0)
  -t, --threads LIST    threads (default: the processors this process may use)
  -r, --repetitions N   samples of each row (default 5)
  -b, --batch-size N    prompt tokens computed together (default 512)
      --head KIND       decode with the screened head, which computes the largest logit only, or
                        with the full one: screened or full (default screened)
      --isa NAME        auto, scalar, avx2, avx512 or neon
      --no-mmap         read the model into memory instead of mapping it
      --weights WHERE   ternary weights: map (where the file has them), 2bit or tri5
                        (copied into large pages, five to a byte) or auto (a copy of
                        what no cache holds, in the faster of the two; the default)
      --i2s-layout L    order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE  a kernel_config.ini: tile sizes of TL1 and TL2 tensors
  -o, --output FORMAT   md, json, csv or jsonl (default md)
      --receipt FILE    also write the numbers with machine, build, model and every sample
      --force           overwrite the receipt
  -q, --quiet           nothing on stderr when all goes well
  -h, --help            this text

The receipt names a model by its size and SHA-256. Of a checkpoint, or of a GGUF file in shards, it
has them for each file that is read; the model's own are the sum of the sizes, and the SHA-256 of
what `sha256sum` prints for these files in the order of their names. It is written even if stdout
takes nothing.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["--synthetic"]),
    Flag::one(&["-p", "--n-prompt"]),
    Flag::one(&["-n", "--n-gen"]),
    Flag::one(&["-d", "--depth"]),
    Flag::one(&["-t", "--threads"]),
    Flag::one(&["-r", "--repetitions"]),
    Flag::one(&["-b", "--batch-size"]),
    Flag::one(&["--head"]),
    Flag::one(&["--isa"]),
    Flag::switch(&["--no-mmap"]),
    Flag::one(&["--weights"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::one(&["-o", "--output"]),
    Flag::one(&["--receipt"]),
    Flag::switch(&["--force"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// How to print the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A Markdown table, for people.
    Markdown,
    /// One array of objects.
    Json,
    /// A header and one line per row.
    Csv,
    /// One object per line.
    JsonLines,
}

/// Where the weights come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A model file.
    File(PathBuf),
    /// A synthetic model of this shape.
    Synthetic(SynthShape),
    /// The demo model inside the binary.
    Demo,
}

/// `bitnet bench`, understood.
#[derive(Debug)]
pub(crate) struct BenchArgs {
    pub(crate) source: Source,
    /// How to compute; `n_threads` is the most of [`threads`](Self::threads).
    pub(crate) model: ModelArgs,
    pub(crate) n_prompt: Vec<usize>,
    pub(crate) n_gen: Vec<usize>,
    pub(crate) depth: Vec<usize>,
    /// Empty: whatever the engine takes by default.
    pub(crate) threads: Vec<usize>,
    pub(crate) repetitions: usize,
    /// The logits a decode step computes.
    pub(crate) head: WantedLogits,
    pub(crate) format: Format,
    pub(crate) receipt: Option<PathBuf>,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
}

/// Rows are every combination of four lists: more than anyone waits for.
const MAX_ROWS: usize = 10_000;

const HEADS: &[(&str, WantedLogits)] = &[("screened", WantedLogits::Top(1)), ("full", WantedLogits::All)];

const FORMATS: &[(&str, Format)] =
    &[("md", Format::Markdown), ("json", Format::Json), ("csv", Format::Csv), ("jsonl", Format::JsonLines)];

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    line.at_most_one(&["--model", "--synthetic"])?;
    line.force_belongs_to("--receipt")?;
    let source = match (line.path("--model")?, line.choice("--synthetic", &super::synth::shapes())?) {
        (Some(path), _) => Source::File(path),
        (None, Some(shape)) => Source::Synthetic(shape),
        (None, None) if cfg!(feature = "demo") => Source::Demo,
        (None, None) => {
            return Err(Failure::misuse("bench", "expected a model: -m FILE, or --synthetic SHAPE"));
        }
    };
    let lengths = |name, default: &[usize]| -> Result<Vec<usize>, Failure> {
        Ok(line.numbers(name, 0..=MAX_POSITIONS)?.unwrap_or_else(|| default.to_vec()))
    };
    let threads = line.numbers("--threads", 1..=MAX_THREADS)?.unwrap_or_default();
    let args = BenchArgs {
        source,
        model: ModelArgs {
            isa: line.choice("--isa", super::model::ISAS)?.flatten(),
            n_threads: threads.iter().copied().max(),
            n_batch: line.number("--batch-size", 1..=MAX_POSITIONS)?,
            no_mmap: line.has("--no-mmap"),
            placement: line.choice("--weights", super::model::PLACEMENTS)?.unwrap_or_default(),
            reading: ReadingArgs::parse(line)?,
            quiet: line.has("--quiet"),
            ..ModelArgs::default()
        },
        n_prompt: lengths("--n-prompt", &[128, 512])?,
        n_gen: lengths("--n-gen", &[32, 128])?,
        depth: lengths("--depth", &[0])?,
        threads,
        head: line.choice("--head", HEADS)?.unwrap_or(WantedLogits::Top(1)),
        repetitions: line.number("--repetitions", 1..=10_000)?.unwrap_or(5),
        format: line.choice("--output", FORMATS)?.unwrap_or(Format::Markdown),
        receipt: line.path("--receipt")?,
        force: line.has("--force"),
        quiet: line.has("--quiet"),
    };
    let n_tests = args.n_prompt.iter().chain(&args.n_gen).filter(|n| **n > 0).count();
    if n_tests == 0 {
        return Err(Failure::misuse("--n-prompt and --n-gen", "all are 0, expected something to measure"));
    }
    let n_rows = n_tests.saturating_mul(args.depth.len()).saturating_mul(args.threads.len().max(1));
    if n_rows > MAX_ROWS {
        let reason = format!("expected at most {MAX_ROWS} rows together, found {n_rows}");
        return Err(Failure::misuse("--n-prompt, --n-gen, --depth and --threads", &reason));
    }
    Ok(Command::Bench(Box::new(args)))
}
