//! `bitnet quantize`.

use std::path::PathBuf;

use bitnet_core::gguf::TensorType;
use bitnet_core::quant::dense::DenseType;

use super::line::{Flag, Line};
use super::{Command, ReadingArgs, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "quantize",
    summary: "write a model in another ternary format",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Writes a model with its ternary matrices in another format. Between ternary formats no weight
changes; tq1_0, tq2_0 and iq1_bn keep scales in half precision, and what that rounds is said. OUT
is compared with IN before it takes its place: it is whole and right, or as it was.

Usage: bitnet quantize IN OUT --type T [flags]

Examples:
  bitnet quantize ggml-model-i2_s.gguf model-tq2_0.gguf --type tq2_0
  bitnet quantize model-f32.gguf model.gguf --type i2_s --absmean --embd q6_k
  bitnet quantize model.gguf model-tl1.gguf --type tl1 --tl-config kernel_config.ini

Flags:
      --type T          i2_s, tl1, tl2, tq1_0, tq2_0, iq1_bn or iq2_bn
      --embd T          embeddings and output as f16, q8_0 or q6_k (default: as they are)
      --absmean         make weights ternary that are not, by the rule of BitNet b1.58: for models
                        that were trained for it, and noise for any other
      --i2s-layout L    order of I2_S codes in IN: a, or b (bitnet.cpp on ARM since November 2025);
                        OUT always has a
      --tl-config FILE  a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --force           overwrite OUT, unless it is IN
  -q, --quiet           nothing on stderr when all goes well
  -h, --help            this text

Exit codes: 0 done, 1 a file cannot be read or written (without --force, also if one appeared as
OUT meanwhile), 2 misused, 3 IN is no sound model or cannot be said in this format, 5 OUT did not
read back the same, 130 interrupted (143 by SIGTERM, 129 by SIGHUP). A run that is killed with
SIGKILL, or by a second signal before it heeded the first, which it does between tensors, leaves
OUT as it was; what it had written may stay beside it, as .OUT.NUMBERS.tmp.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["--type"]),
    Flag::one(&["--embd"]),
    Flag::switch(&["--absmean"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["--force"]),
    Flag::switch(&["-q", "--quiet"]),
];

const TYPES: &[(&str, TensorType)] = &[
    ("i2_s", TensorType::I2_S),
    ("tl1", TensorType::TL1),
    ("tl2", TensorType::TL2),
    ("tq1_0", TensorType::TQ1_0),
    ("tq2_0", TensorType::TQ2_0),
    ("iq1_bn", TensorType::IQ1_BN),
    ("iq2_bn", TensorType::IQ2_BN),
];

const EMBD: &[(&str, DenseType)] =
    &[("f16", DenseType::F16), ("q8_0", DenseType::Q8_0), ("q6_k", DenseType::Q6_K)];

/// `bitnet quantize`, understood.
#[derive(Debug)]
pub(crate) struct QuantizeArgs {
    pub(crate) source: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) ty: TensorType,
    pub(crate) embd: Option<DenseType>,
    pub(crate) absmean: bool,
    pub(crate) reading: ReadingArgs,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    let Some([source, out]) = line.two_words("IN and OUT")? else {
        return Err(Failure::misuse(
            "quantize",
            "expected two files, as in `bitnet quantize in.gguf out.gguf --type tq2_0`",
        ));
    };
    let Some(ty) = line.choice("--type", TYPES)? else {
        let words: Vec<&str> = TYPES.iter().map(|(word, _)| *word).collect();
        return Err(Failure::misuse("--type", &format!("expected one of {}", words.join(", "))));
    };
    Ok(Command::Quantize(Box::new(QuantizeArgs {
        source,
        out,
        ty,
        embd: line.choice("--embd", EMBD)?,
        absmean: line.has("--absmean"),
        reading: ReadingArgs::parse(line)?,
        force: line.has("--force"),
        quiet: line.has("--quiet"),
    })))
}
