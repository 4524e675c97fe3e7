//! `bitnet inspect`.

use std::path::PathBuf;

use super::line::{Flag, Line};
use super::{Command, ReadingArgs, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "inspect",
    summary: "say what a model file holds and what it needs",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Says what a model file holds, from its header alone: metadata, tensors, formats, the kernel each
tensor would get on this CPU, bytes read per token, memory needed.

With --verify the ternary weights are read too: each code must have a meaning and each scale be a
number, and the codes are counted. With --layout-test the model predicts short texts with its I2_S
codes in either order, which the file does not tell: the wrong one is no better than a blind guess.

Usage: bitnet inspect [FILE] [flags]

Examples:
  bitnet inspect model.gguf
  bitnet inspect model.gguf --json | jq '.tensors[].type' | sort | uniq -c
  bitnet inspect model.gguf --verify
  bitnet inspect model.gguf --layout-test

Flags:
  -m, --model FILE      the model, if it is not given as a word; without either, the demo model
                        inside the binary, where there is one
  -c, --ctx-size N      positions to size the key-value cache for (default 0: the model's own)
      --verify          count every ternary tensor's -1, 0 and +1; exit code 3 if one is damaged
      --layout-test     losses of short texts with I2_S codes in order a and b, and which of them is
                        plausible; exit code 5 if neither is
      --tokenizer FILE  for --layout-test: a tokenizer.json, instead of the model's vocabulary
      --pre NAME        for --layout-test: pre-split rule, instead of the model's own
      --i2s-layout L    order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE  a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --json            one JSON object
  -q, --quiet           nothing on stderr when all goes well
  -h, --help            this text
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["-c", "--ctx-size"]),
    Flag::switch(&["--verify"]),
    Flag::switch(&["--layout-test"]),
    Flag::one(&["--tokenizer"]),
    Flag::one(&["--pre"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["--json"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// `bitnet inspect`, understood.
#[derive(Debug)]
pub(crate) struct InspectArgs {
    /// `None`: the demo model inside the binary.
    pub(crate) model: Option<PathBuf>,
    pub(crate) n_ctx: Option<usize>,
    /// Whether ternary weights are looked at.
    pub(crate) verify: bool,
    /// Whether the order of I2_S codes is found out.
    pub(crate) layout_test: bool,
    /// A `tokenizer.json` for that.
    pub(crate) tokenizer: Option<PathBuf>,
    /// The rule for cutting its text into words.
    pub(crate) pre: Option<String>,
    pub(crate) reading: ReadingArgs,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    let model = match (line.path("--model")?, line.word("FILE")?) {
        (Some(model), None) | (None, Some(model)) => Some(model),
        (None, None) if cfg!(feature = "demo") => None,
        (None, None) => {
            return Err(Failure::misuse("inspect", "expected a file, as in `bitnet inspect model.gguf`"));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::misuse("--model and FILE", "expected one of them, not both"));
        }
    };
    let n_ctx = super::model::n_ctx(line)?;
    let layout_test = line.has("--layout-test");
    if let Some(flag) = ["--tokenizer", "--pre"].into_iter().find(|flag| line.has(flag) && !layout_test) {
        return Err(Failure::misuse(flag, "belongs to --layout-test"));
    }
    Ok(Command::Inspect(Box::new(InspectArgs {
        model,
        n_ctx,
        verify: line.has("--verify"),
        layout_test,
        tokenizer: line.path("--tokenizer")?,
        pre: line.text("--pre")?,
        reading: ReadingArgs::parse(line)?,
        json: line.has("--json"),
        quiet: line.has("--quiet"),
    })))
}
