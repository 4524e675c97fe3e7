//! `bitnet convert`.

use std::path::PathBuf;

use bitnet_core::hf::ConvertOptions;
use bitnet_core::quant::dense::DenseType;

use super::line::{Flag, Line};
use super::{Command, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "convert",
    summary: "turn a Hugging Face checkpoint into a GGUF file",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Writes the model in HF_DIR (config.json, model.safetensors or its shards, tokenizer.json or
tokenizer.model) as one GGUF file with I2_S weights. Packed ternary weights are kept as they are;
trained floats are rounded by the absmean rule where the model's configuration says so.
OUT.gguf appears when it is whole, or not at all.

Usage: bitnet convert [flags] HF_DIR OUT.gguf

Examples:
  bitnet convert bitnet-b1.58-2B-4T 2b4t.gguf
  bitnet convert --embd q6_k Falcon3-7B-Instruct-1.58bit falcon3.gguf
  bitnet run -m bitnet-b1.58-2B-4T -p Hello    (the same model without a file)

Flags:
      --embd TYPE  embeddings and output matrix: f32, f16, bf16, q8_0 or q6_k (default f16)
      --absmean    round float weights by the absmean rule even if config.json does not say so
      --pre NAME   the rule that cuts text into words, if none does what tokenizer.json does
      --force      overwrite OUT.gguf, unless it is a file of HF_DIR that is read
  -q, --quiet      nothing on stderr when all goes well
  -h, --help       this text

Exit codes: 0 done, 1 failed (a full disk; without --force, a file that appeared as OUT.gguf
meanwhile), 2 misused, 3 bad or unsupported checkpoint, 130 interrupted (143 by SIGTERM, 129 by
SIGHUP). A run that is killed with SIGKILL, or by a second signal before it heeded the first, which
it does between tensors, leaves OUT.gguf as it was; what it had written may stay beside it, as
.OUT.gguf.NUMBERS.tmp.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["--embd"]),
    Flag::switch(&["--absmean"]),
    Flag::one(&["--pre"]),
    Flag::switch(&["--force"]),
    Flag::switch(&["-q", "--quiet"]),
];

const EMBEDDINGS: &[(&str, DenseType)] = &[
    ("f32", DenseType::F32),
    ("f16", DenseType::F16),
    ("bf16", DenseType::BF16),
    ("q8_0", DenseType::Q8_0),
    ("q6_k", DenseType::Q6_K),
];

/// `bitnet convert`, understood.
#[derive(Debug)]
pub(crate) struct ConvertArgs {
    pub(crate) dir: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) options: ConvertOptions,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    let Some([dir, out]) = line.two_words("HF_DIR or OUT.gguf")? else {
        return Err(Failure::misuse(
            "convert",
            "expected a directory and a file to write, as in `bitnet convert HF_DIR OUT.gguf`",
        ));
    };
    let usual = ConvertOptions::default();
    let options = ConvertOptions {
        embd: line.choice("--embd", EMBEDDINGS)?.unwrap_or(usual.embd),
        absmean: line.has("--absmean"),
        pre: line.text("--pre")?,
    };
    let (force, quiet) = (line.has("--force"), line.has("--quiet"));
    Ok(Command::Convert(ConvertArgs { dir, out, options, force, quiet }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_of_embeddings_that_the_engine_writes_has_a_name() {
        let named: Vec<DenseType> = EMBEDDINGS.iter().map(|(_, ty)| *ty).collect();
        assert!(DenseType::ALL.iter().all(|ty| ty.can_quantize() == named.contains(ty)), "{named:?}");
    }
}
