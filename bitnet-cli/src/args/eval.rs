//! `bitnet eval`.

use std::path::PathBuf;

use super::line::{Flag, Line};
use super::{Command, ModelArgs, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb =
    Verb { name: "eval", summary: "count the answers a model gets right", help: HELP, flags: FLAGS, parse };

const HELP: &str = "\
Counts the answers a model gets right, greedily and letter by letter: the text it chooses up to an
end token has to be the answer and nothing else.

Usage: bitnet eval [-m FILE] --data FILE.tsv [flags]

Examples:
  bitnet eval --data bitnet-cli/tests/data/demo_eval.tsv
  bitnet eval -m model.gguf --data held-out.tsv
  bitnet eval -m model.gguf --data held-out.tsv --min sums=99 --min total=97.5 --json

Flags:
  -m, --model FILE      a GGUF file or a checkpoint's directory (default: the demo model)
      --tokenizer FILE  a tokenizer.json, instead of the vocabulary in the model
      --pre NAME        pre-split rule of the vocabulary, instead of the model's own
      --data FILE       questions, one a line: task, prompt and answer with tabs between them, where
                        \\t, \\n and \\\\ stand for tab, newline and backslash, and a control token may
                        be spelt out, as in User: 2+2=<|eot_id|>Assistant: ; - reads stdin
      --min TASK=PCT    exit 5 if less than PCT % of a task is right; may be given several times;
                        the task called total is all of them
  -c, --ctx-size N      positions in the context (default 0: what the model was trained for)
  -t, --threads N       threads (default: the processors this process may use)
  -b, --batch-size N    prompt tokens computed together (default 512)
      --isa NAME        auto, scalar, avx2, avx512 or neon; the result is the same on all
      --no-mmap         read the model into memory instead of mapping it
      --weights WHERE   ternary weights: map (where the file has them), 2bit or tri5
                        (copied into large pages, five to a byte) or auto (a copy of
                        what no cache holds, in the faster of the two; the default)
      --i2s-layout L    order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE  a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --json            one JSON object instead of a table, with every wrong answer and a hash of
                        all logits: equal on every instruction set, thread count and batch size
      --receipt FILE    write all of that with machine, build, model and data, whatever the score
      --force           overwrite the receipt
  -q, --quiet           nothing on stderr when all goes well
  -h, --help            this text

Exit 5 if a task falls short of --min, whether or not anybody reads the table. The receipt comes
after the table, and neither is lost with the other; it names a model as that of `bitnet bench`.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["--tokenizer"]),
    Flag::one(&["--pre"]),
    Flag::one(&["--data"]),
    Flag::many(&["--min"]),
    Flag::one(&["-c", "--ctx-size"]),
    Flag::one(&["-t", "--threads"]),
    Flag::one(&["-b", "--batch-size"]),
    Flag::one(&["--isa"]),
    Flag::switch(&["--no-mmap"]),
    Flag::one(&["--weights"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["--json"]),
    Flag::one(&["--receipt"]),
    Flag::switch(&["--force"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// `bitnet eval`, understood.
#[derive(Debug)]
pub(crate) struct EvalArgs {
    pub(crate) model: ModelArgs,
    pub(crate) data: PathBuf,
    /// Tasks and the percentage each has to reach.
    pub(crate) least: Vec<(String, f64)>,
    pub(crate) json: bool,
    pub(crate) receipt: Option<PathBuf>,
    pub(crate) force: bool,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    let Some(data) = line.path("--data")? else {
        return Err(Failure::misuse("--data", "expected a file of questions; - reads them from stdin"));
    };
    line.force_belongs_to("--receipt")?;
    let args = EvalArgs {
        model: ModelArgs::parse(line)?,
        data,
        least: line.texts("--min")?.iter().map(|text| least(text)).collect::<Result<_, _>>()?,
        json: line.has("--json"),
        receipt: line.path("--receipt")?,
        force: line.has("--force"),
        quiet: line.has("--quiet"),
    };
    args.model.check("eval --data FILE.tsv")?;
    Ok(Command::Eval(Box::new(args)))
}

fn least(text: &str) -> Result<(String, f64), Failure> {
    let given = text.rsplit_once('=').and_then(|(task, percent)| Some((task, percent.parse().ok()?)));
    match given {
        Some((task, percent)) if !task.is_empty() && (0.0..=100.0).contains(&percent) => {
            Ok((task.to_owned(), percent))
        }
        _ => {
            let what = format!("--min {}", text.escape_debug());
            Err(Failure::misuse(&what, "expected a task and a number from 0 to 100, as in --min sums=99.5"))
        }
    }
}
