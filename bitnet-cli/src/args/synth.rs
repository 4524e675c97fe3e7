//! `bitnet synth`.

use std::path::PathBuf;

use bitnet_core::synth::{EmbdType, SynthOptions, SynthShape};

use super::line::{Flag, Line};
use super::model::MAX_POSITIONS;
use super::{Command, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "synth",
    summary: "write a synthetic model of a real one's shape",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Writes a model with seeded random ternary weights and a working vocabulary. It talks nonsense, at
the speed of the real thing: measure a machine before downloading anything.

Usage: bitnet synth [flags] OUT.gguf

Examples:
  bitnet synth --shape tiny tiny.gguf
  bitnet synth --shape 2b4t --layers 4 --seed 7 quarter.gguf

Flags:
      --shape NAME    tiny, small, mid, hd96, hd100, large or 2b4t (default tiny)
      --arch NAME     bitnet-b1.58, bitnet-25, bitnet or llama (default bitnet-b1.58)
      --seed N        same seed, same bytes (default 1)
      --layers N      layers, instead of the shape's
      --vocab N       tokens in the vocabulary, 260 at least, instead of the shape's
      --ctx N         positions of the context (default 4096)
      --zeros P       share of weights that are zero, 0 to 1 (default 0.333)
      --embd TYPE     type of the embedding matrix: f16 or f32 (default f16)
      --force         overwrite OUT.gguf
  -q, --quiet         nothing on stderr when all goes well
  -h, --help          this text

Exit codes: 0 done, 1 failed (a full disk; without --force, a file that appeared as OUT.gguf
meanwhile), 2 misused, 130 interrupted (143 by SIGTERM, 129 by SIGHUP): OUT.gguf is whole, or as it
was. A run that is killed with SIGKILL, or by a second signal before it heeded the first, may leave
what it had written as .OUT.gguf.NUMBERS.tmp.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["--shape"]),
    Flag::one(&["--arch"]),
    Flag::one(&["--seed"]),
    Flag::one(&["--layers"]),
    Flag::one(&["--vocab"]),
    Flag::one(&["--ctx"]),
    Flag::one(&["--zeros"]),
    Flag::one(&["--embd"]),
    Flag::switch(&["--force"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// The shapes the engine's synthesizer knows, by name.
pub(super) fn shapes() -> [(&'static str, SynthShape); SynthShape::ALL.len()] {
    SynthShape::ALL.map(|shape| (shape.name(), shape))
}

const ARCHS: &[(&str, &str)] =
    &[("bitnet-b1.58", "bitnet-b1.58"), ("bitnet-25", "bitnet-25"), ("bitnet", "bitnet"), ("llama", "llama")];

/// `bitnet synth`, understood.
#[derive(Debug)]
pub(crate) struct SynthArgs {
    pub(crate) out: PathBuf,
    pub(crate) model: SynthOptions,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    let Some(out) = line.word("OUT.gguf")? else {
        return Err(Failure::misuse(
            "synth",
            "expected a file to write, as in `bitnet synth --shape tiny tiny.gguf`",
        ));
    };
    let usual = SynthOptions::new(line.choice("--shape", &shapes())?.unwrap_or(SynthShape::Tiny));
    let model = SynthOptions {
        n_layer: line.number("--layers", 1..=1024)?,
        n_vocab: line.number("--vocab", 260..=1 << 20)?,
        n_ctx: line.number("--ctx", 1..=MAX_POSITIONS)?,
        arch: line.choice("--arch", ARCHS)?.map_or(usual.arch, str::to_owned),
        seed: line.number("--seed", 0..=u64::MAX)?.unwrap_or(usual.seed),
        zeros: line.number("--zeros", 0.0..=1.0)?.unwrap_or(usual.zeros),
        embd: line.choice("--embd", &[("f16", EmbdType::F16), ("f32", EmbdType::F32)])?.unwrap_or(usual.embd),
        shape: usual.shape,
    };
    Ok(Command::Synth(SynthArgs { out, model, force: line.has("--force"), quiet: line.has("--quiet") }))
}
