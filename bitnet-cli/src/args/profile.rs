//! `bitnet profile`.

use std::path::PathBuf;

use super::line::{Flag, Line};
use super::model::MAX_POSITIONS;
use super::run::{Prompt, prompt};
use super::{Command, ModelArgs, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "profile",
    summary: "say which operation takes how much of a run's time",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Continues a prompt greedily, past end tokens, and prints where the time went instead of the text.
One token is computed before anything is counted, so that reading the file is not in the table.
Needs a binary with the annotations in it: cargo build --release --features instrument

Usage: bitnet profile [-m FILE] (-p TEXT | --tokens IDS) [flags]

Examples:
  bitnet profile -p \"2+2=\" -n 8
  bitnet profile -m model.gguf -p \"The capital of France is\" -n 64
  bitnet profile -m model.gguf --tokens 128000,791,6864 -t 1 --trace trace.json

Flags:
  -m, --model FILE        a GGUF file or a checkpoint's directory (default: the demo model)
      --tokenizer FILE    a tokenizer.json, instead of the vocabulary in the model
      --pre NAME          pre-split rule of the vocabulary, instead of the model's own
  -p, --prompt TEXT       the prompt; - reads it from stdin, less one trailing newline
  -f, --file FILE         the prompt from a file, less one trailing newline; - is stdin
      --tokens IDS        the prompt as token ids, 1,2,3: exactly these, no start token is added
  -n, --max-tokens, --n-predict N
                          generate N tokens (default 32)
  -c, --ctx-size N        positions in the context (default 0: what the model was trained for)
  -t, --threads N         threads (default: the processors this process may use)
  -b, --batch-size N      prompt tokens computed together (default 512)
      --isa NAME          auto, scalar, avx2, avx512 or neon
      --no-mmap           read the model into memory instead of mapping it
      --weights WHERE     ternary weights: map (where the file has them), 2bit or tri5
                          (copied into large pages, five to a byte) or auto (a copy of
                          what no cache holds, in the faster of the two; the default)
      --i2s-layout L      order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE    a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --trace FILE        also write every span for ui.perfetto.dev or chrome://tracing
      --force             overwrite the trace
      --json              one JSON object instead of a table
  -q, --quiet             nothing on stderr when all goes well
  -h, --help              this text

Columns, each summed over all threads:
  operation   the module and name of the annotated function
  calls       how often it ran
  total ms    the time it took, with the operations inside it
  own ms      the same without those on its own thread; waiting for other threads is in it
  share       own time of all own time; on one thread all shares add up to the run
  MB          bytes of weights, keys and values it was given, from memory or a cache
  GB/s        MB for the total time: what one thread got
  GMAC/s      billions of multiply-adds for the total time, of one thread
  % of ceiling
              the larger of the shares these are of one thread's part of what all threads were
              measured to read from memory, and to multiply; of a model too large for caches,
              and above 100 % where a cache had the bytes

team::wait is the main thread while others work for it: it is listed and has no share.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["--tokenizer"]),
    Flag::one(&["--pre"]),
    Flag::one(&["-p", "--prompt"]),
    Flag::one(&["-f", "--file"]),
    Flag::one(&["--tokens"]),
    Flag::one(&["-n", "--n-predict", "--max-tokens"]),
    Flag::one(&["-c", "--ctx-size"]),
    Flag::one(&["-t", "--threads"]),
    Flag::one(&["-b", "--batch-size"]),
    Flag::one(&["--isa"]),
    Flag::switch(&["--no-mmap"]),
    Flag::one(&["--weights"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::one(&["--trace"]),
    Flag::switch(&["--force"]),
    Flag::switch(&["--json"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// `bitnet profile`, understood.
#[derive(Debug)]
pub(crate) struct ProfileArgs {
    pub(crate) model: ModelArgs,
    pub(crate) prompt: Prompt,
    pub(crate) n_tokens: usize,
    /// Where to write every span.
    pub(crate) trace: Option<PathBuf>,
    pub(crate) force: bool,
    pub(crate) json: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    line.at_most_one(&["--prompt", "--file", "--tokens"])?;
    line.force_belongs_to("--trace")?;
    let args = ProfileArgs {
        model: ModelArgs::parse(line)?,
        prompt: prompt(line)?,
        n_tokens: line.number("--max-tokens", 1..=MAX_POSITIONS)?.unwrap_or(32),
        trace: line.path("--trace")?,
        force: line.has("--force"),
        json: line.has("--json"),
    };
    args.model.check("profile")?;
    Ok(Command::Profile(Box::new(args)))
}
