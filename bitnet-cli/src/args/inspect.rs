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

Usage: bitnet inspect [FILE] [flags]

Examples:
  bitnet inspect model.gguf
  bitnet inspect model.gguf --json | jq '.tensors[].type' | sort | uniq -c

Flags:
  -m, --model FILE      the model, if it is not given as a word; without either, the demo model
                        inside the binary, where there is one
  -c, --ctx-size N      positions to size the key-value cache for (default: the model's own)
      --i2s-layout L    order of I2_S codes: a, or b (bitnet.cpp on ARM since 2026)
      --tl-config FILE  a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --json            one JSON object
  -h, --help            this text
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["-c", "--ctx-size"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["--json"]),
];

/// `bitnet inspect`, understood.
#[derive(Debug)]
pub(crate) struct InspectArgs {
    /// `None`: the demo model inside the binary.
    pub(crate) model: Option<PathBuf>,
    pub(crate) n_ctx: Option<usize>,
    pub(crate) reading: ReadingArgs,
    pub(crate) json: bool,
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
    let n_ctx = line.number("--ctx-size", 1..=super::model::MAX_POSITIONS)?;
    Ok(Command::Inspect(InspectArgs {
        model,
        n_ctx,
        reading: ReadingArgs::parse(line)?,
        json: line.has("--json"),
    }))
}
