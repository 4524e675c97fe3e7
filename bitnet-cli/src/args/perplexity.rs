//! `bitnet perplexity`.

use super::line::{Flag, Line};
use super::model::MAX_POSITIONS;
use super::{Command, ModelArgs, Prompt, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "perplexity",
    summary: "measure how well a model predicts a text",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Measures how well a model predicts a text, as llama.cpp does: the text is cut into chunks of the
context size, and in each chunk the second half is predicted from what stands before it. Prints the
estimate after each chunk, then the final one with its standard error. Lower is better.

Usage: bitnet perplexity [-m FILE] -f TEXT [flags]

Examples:
  bitnet perplexity -f README.md -c 128
  bitnet perplexity -m model.gguf -f wiki.test.raw
  bitnet perplexity -m model.gguf -f wiki.test.raw -c 2048 --chunks 8 --json

Flags:
  -m, --model FILE        a GGUF file or a checkpoint's directory (default: the demo model)
      --tokenizer FILE    a tokenizer.json, instead of the vocabulary in the model
      --pre NAME          pre-split rule of the vocabulary, instead of the model's own
  -f, --file FILE         the text, less one trailing newline; - reads it from stdin
  -c, --ctx-size N        tokens of a chunk (default 512)
      --chunks N          stop after N chunks (default: all whole ones)
  -t, --threads N         threads (default: the processors this process may use)
  -b, --batch-size N      tokens computed together (default 512)
      --isa NAME          auto, scalar, avx2, avx512 or neon; the result is the same on all
      --no-mmap           read the model into memory instead of mapping it
      --weights WHERE     ternary weights: map (where the file has them), 2bit or tri5
                          (copied into large pages, five to a byte) or auto (a copy of
                          what no cache holds, in the faster of the two; the default)
      --i2s-layout L      order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE    a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --json              one JSON object at the end instead of text
  -q, --quiet             nothing on stderr when all goes well
  -h, --help              this text
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["--tokenizer"]),
    Flag::one(&["--pre"]),
    Flag::one(&["-f", "--file"]),
    Flag::one(&["-c", "--ctx-size"]),
    Flag::one(&["--chunks"]),
    Flag::one(&["-t", "--threads"]),
    Flag::one(&["-b", "--batch-size"]),
    Flag::one(&["--isa"]),
    Flag::switch(&["--no-mmap"]),
    Flag::one(&["--weights"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["--json"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// A chunk has to leave something to predict in its second half.
const MIN_CHUNK: usize = 8;
/// llama.cpp's chunk: published numbers are for this size unless they say otherwise.
const USUAL_CHUNK: usize = 512;

/// `bitnet perplexity`, understood.
#[derive(Debug)]
pub(crate) struct PerplexityArgs {
    /// How to compute; `n_ctx` is in [`chunk`](Self::chunk) instead.
    pub(crate) model: ModelArgs,
    pub(crate) text: Prompt,
    /// Tokens of a chunk.
    pub(crate) chunk: usize,
    /// Chunks at most.
    pub(crate) n_chunks: usize,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    let chunk = line.number("--ctx-size", MIN_CHUNK..=MAX_POSITIONS)?.unwrap_or(USUAL_CHUNK);
    let text = match line.path("--file")? {
        Some(path) if path.as_os_str() == "-" => Prompt::Stdin,
        Some(path) => Prompt::File(path),
        None => return Err(Failure::misuse("--file", "expected a text to predict; - reads it from stdin")),
    };
    let args = PerplexityArgs {
        model: ModelArgs { n_ctx: Some(chunk), ..ModelArgs::parse(line)? },
        text,
        chunk,
        n_chunks: line.number("--chunks", 1..=usize::MAX)?.unwrap_or(usize::MAX),
        json: line.has("--json"),
        quiet: line.has("--quiet"),
    };
    args.model.check("perplexity")?;
    Ok(Command::Perplexity(Box::new(args)))
}
