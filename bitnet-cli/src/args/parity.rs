//! `bitnet parity`.

use std::path::{Path, PathBuf};

use super::line::{Flag, Line};
use super::model::MAX_POSITIONS;
use super::run::{Prompt, prompt};
use super::{Command, ModelArgs, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "parity",
    summary: "compare the tokens and logits of two runs, or record them",
    help: HELP,
    flags: FLAGS,
    parse,
};

const HELP: &str = "\
Compares two logs of generated tokens and the logits they were chosen by, step by step up to the
first token that differs: first difference, largest and RMS difference of the logits both logs
hold, share of ranks that hold the same token, and a verdict:

  identical             same tokens, and at every rank that both logs hold, ten of ours, the same
                        token and the same bits of its logit; how many ranks that is, is told
  same tokens           logits or ranking differ, or a log has no logits
  diverged at step K    from here on the two runs continue different texts

Usage: bitnet parity A B [flags]
       bitnet parity --record OUT [-m FILE] --tokens IDS [flags]

Examples:
  bitnet parity ours.log theirs.log
  bitnet parity --record ours.log -p \"2+2=\"
  bitnet parity --record ours.log -m model.gguf --tokens 1,2,3 -n 24
  BITNET_PARITY=1 bitnet run -m model.gguf -p hi --greedy 2>&1 >/dev/null | bitnet parity - b.json

Flags:
      --tokens-only       differing logits are no mismatch, only differing tokens are
      --prefix            steps that only one of the logs has are no mismatch
      --json              one JSON object instead of text
      --record OUT        write a log instead, to a file or to stdout, -: of a greedy run that
                          goes on after end tokens; in any build, no switch needed
  -m, --model FILE        the model to record, a GGUF file (default: the demo model, if built in)
      --tokenizer FILE    a tokenizer.json, instead of the vocabulary in the model
      --pre NAME          pre-split rule of the vocabulary, instead of the model's own
  -p, --prompt TEXT       the prompt; - reads it from stdin, less one trailing newline
  -f, --file FILE         the prompt from a file, less one trailing newline; - is stdin
      --tokens IDS        the prompt as token ids, 1,2,3: exactly these, no start token is added
  -n, --max-tokens, --n-predict N
                          record N tokens (default 32)
  -c, --ctx-size N        positions in the context (default 0: what the model was trained for)
  -t, --threads N         threads (default: the processors this process may use)
  -b, --batch-size N      prompt tokens computed together (default 512)
      --isa NAME          auto, scalar, avx2, avx512 or neon; the logits are the same on all
      --no-mmap           read the model into memory instead of mapping it
      --weights WHERE     ternary weights: map (where the file has them), 2bit or tri5
                          (copied into large pages, five to a byte) or auto (a copy of
                          what no cache holds, in the faster of the two; the default)
      --i2s-layout L      order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE    a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --force             overwrite OUT
  -q, --quiet             nothing on stderr when all goes well
  -h, --help              this text

A and B are files; one of them may be -, stdin. Exit 0: identical, and both logs have the same
steps. Exit 4: any mismatch, so also `same tokens` and a log that ends early, unless --tokens-only
and --prefix allow them. Exit 2: what is no log, with file and line, or logs without a common
step. Exit 1: a file that cannot be read.

A log is any text with one JSON object a line for each generated token, as BITNET_PARITY=1 makes
an instrumented `bitnet run` write to stderr and as --record writes to a file:

  {\"step\":0,\"token\":1234,\"top_k\":[[1234,17.25],[99,16.5]]}

  step    counts generated tokens; the first may have any number, then one more on each line
  token   the id chosen
  top_k   [id, logit] pairs, largest first, as many as there are; may be absent. Write a logit
          with 9 digits or more and it reads back to the same f32; \"NaN\", \"Infinity\" and
          \"-Infinity\" are strings

Other keys are ignored, and so are lines that hold no such object: the output of another engine
needs no converter, only these lines somewhere in it. A golden file is read, too: one JSON object
with prompt_tokens, generated and top_k_per_position, lists of ids, ids and such pairs; step K was
chosen from row (length of prompt_tokens) - 1 + K.
";

const FLAGS: &[Flag] = &[
    Flag::switch(&["--tokens-only"]),
    Flag::switch(&["--prefix"]),
    Flag::switch(&["--json"]),
    Flag::one(&["--record"]),
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
    Flag::switch(&["--force"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// What only a comparison knows.
const OF_COMPARISON: &[&str] = &["--tokens-only", "--prefix", "--json"];

/// `bitnet parity`, understood.
#[derive(Debug)]
pub(crate) enum ParityArgs {
    /// Compare two logs.
    Compare(CompareArgs),
    /// Write one.
    Record(Box<RecordArgs>),
}

/// Which logs, and what to let pass.
#[derive(Debug)]
pub(crate) struct CompareArgs {
    pub(crate) logs: [Source; 2],
    /// Logits may differ.
    pub(crate) tokens_only: bool,
    /// A log may have steps the other has not.
    pub(crate) prefix: bool,
    pub(crate) json: bool,
}

/// Where a log comes from, or goes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Stdin, or stdout.
    Pipe,
    File(PathBuf),
}

/// Which run to record.
#[derive(Debug)]
pub(crate) struct RecordArgs {
    pub(crate) out: Source,
    pub(crate) model: ModelArgs,
    pub(crate) prompt: Prompt,
    pub(crate) n_tokens: usize,
    pub(crate) force: bool,
}

impl Source {
    fn of(path: &Path) -> Self {
        if path == Path::new("-") { Source::Pipe } else { Source::File(path.to_owned()) }
    }
}

fn parse(line: &Line) -> Result<Command, Failure> {
    let args = match line.path("--record")? {
        Some(out) => ParityArgs::Record(Box::new(record(line, &out)?)),
        None => ParityArgs::Compare(compare(line)?),
    };
    Ok(Command::Parity(args))
}

fn compare(line: &Line) -> Result<CompareArgs, Failure> {
    let of_both = |name: &&str| OF_COMPARISON.contains(name) || *name == "--quiet";
    let of_record = FLAGS.iter().map(Flag::name).filter(|name| !of_both(name));
    for name in of_record {
        if line.has(name) {
            return Err(Failure::misuse(name, "belongs to a recording; expected --record OUT with it"));
        }
    }
    let Some([a, b]) = line.two_words("A or B")? else {
        let reason = "expected two logs, as in `bitnet parity ours.log theirs.log`, or --record OUT";
        return Err(Failure::misuse("parity", reason));
    };
    let logs = [Source::of(&a), Source::of(&b)];
    if logs == [Source::Pipe, Source::Pipe] {
        return Err(Failure::misuse("- and -", "expected one log from stdin, not both"));
    }
    let has = |name| line.has(name);
    Ok(CompareArgs { logs, tokens_only: has("--tokens-only"), prefix: has("--prefix"), json: has("--json") })
}

fn record(line: &Line, out: &Path) -> Result<RecordArgs, Failure> {
    line.no_words()?;
    for flag in OF_COMPARISON {
        line.at_most_one(&["--record", flag])?;
    }
    line.at_most_one(&["--prompt", "--file", "--tokens"])?;
    let args = RecordArgs {
        out: Source::of(out),
        model: ModelArgs::parse(line)?,
        prompt: prompt(line)?,
        n_tokens: line.number("--max-tokens", 1..=MAX_POSITIONS)?.unwrap_or(32),
        force: line.has("--force"),
    };
    args.model.check("parity --record OUT")?;
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn parse_parity(words: &str) -> Result<ParityArgs, Failure> {
        let args = words.split_whitespace().map(OsString::from).collect();
        match parse(&Line::read("parity", FLAGS, args)?)? {
            Command::Parity(args) => Ok(args),
            other => panic!("expected parity, got {other:?}"),
        }
    }

    #[track_caller]
    fn refused(words: &str, with: &str) {
        match parse_parity(words) {
            Err(Failure::Misuse(sentence)) => assert!(sentence.starts_with(with), "{words}: {sentence}"),
            other => panic!("{words}: expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn two_words_are_compared_and_a_dash_is_stdin() {
        let Ok(ParityArgs::Compare(args)) = parse_parity("- b.json --tokens-only") else { panic!() };
        assert_eq!(args.logs, [Source::Pipe, Source::File("b.json".into())]);
        assert_eq!((args.tokens_only, args.prefix, args.json), (true, false, false));
        refused("a.log", "parity: expected two logs");
        refused("a.log b.log c.log", "c.log: unexpected word");
        refused("- -", "- and -: expected one log");
    }

    #[test]
    fn a_recording_and_a_comparison_share_no_flag() {
        let Ok(ParityArgs::Record(args)) = parse_parity("--record - -m a.gguf --tokens 1,2") else {
            panic!()
        };
        assert_eq!((args.out, args.n_tokens, args.force), (Source::Pipe, 32, false));
        refused("--record x a.log -m a.gguf --tokens 1", "a.log: unexpected word");
        refused("--record x -m a.gguf --tokens 1 --json", "--record and --json: expected one of them");
        #[cfg(not(feature = "demo"))]
        refused("--record x --tokens 1", "--model: expected a GGUF file");
        refused("--record x -m a.gguf", "--prompt: expected a text");
        refused("--record x -m a.gguf --tokens 1 -n 0", "-n 0: expected a number from 1 to ");
        for flag in ["-m a.gguf", "--tokens 1", "-n 3", "--isa scalar", "--force"] {
            let words = format!("a.log b.log {flag}");
            let Err(Failure::Misuse(sentence)) = parse_parity(&words) else { panic!("{words}") };
            assert!(sentence.contains("belongs to a recording"), "{sentence}");
        }
    }
}
