//! `bitnet run`.

use std::path::PathBuf;

use super::line::{Flag, Line};
use super::{Command, ModelArgs, Sampling, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb =
    Verb { name: "run", summary: "continue a prompt, token by token", help: HELP, flags: FLAGS, parse };

const HELP: &str = "\
Continues a prompt and streams the text to stdout, without the prompt, ended by a newline.

Usage: bitnet run [-m FILE] -p TEXT [flags]

Examples:
  bitnet run -p \"2+2=\"
  bitnet run -m model.gguf -p \"The capital of France is\" -n 32 --greedy
  echo \"2+2=\" | bitnet run -m model.gguf -p - --quiet
  bitnet run -m model.gguf --tokens 128000,791,6864 -n 8 --greedy --json

Flags:
  -m, --model FILE        a GGUF file or a checkpoint's directory (default: the demo model)
      --tokenizer FILE    a tokenizer.json, instead of the vocabulary in the model
      --pre NAME          pre-split rule of the vocabulary, instead of the model's own
  -p, --prompt TEXT       the prompt; - reads it from stdin, less one trailing newline
  -f, --file FILE         the prompt from a file, less one trailing newline; - is stdin
      --tokens IDS        the prompt as token ids, 1,2,3: exactly these, no start token is added
  -n, --max-tokens, --n-predict N
                          generate at most N tokens; -1, the default: until the model ends
                          or the context is full
  -c, --ctx-size N        positions in the context (default 0: what the model was trained for)
      --greedy            always the most likely token; ties go to the lowest id
      --temp, --temperature T
                          0 is greedy; above 1 flattens the choice (default 0.8; greedy for the
                          demo model)
      --top-k N           choose among the N most likely tokens; 0 is all (default 40)
      --top-p P           choose among the most likely tokens that together reach P (default 0.95)
      --min-p P           drop tokens less likely than P times the most likely one (default 0.05)
      --repeat-penalty R  above 1 makes recent tokens less likely (default 1, none)
      --repeat-last-n N   how many tokens are recent; -1 is all of the context (default 64)
  -s, --seed N            same seed, same text (default 0); -1 is another one each time, told at
                          the end
      --stop TEXT         end before this text appears; may be given several times
      --ignore-eos        go on after the model's end tokens
  -t, --threads N         threads (default: the processors this process may use)
  -b, --batch-size N      prompt tokens computed together (default 512)
      --isa NAME          auto, scalar, avx2, avx512 or neon; the tokens are the same on all
      --no-mmap           read the model into memory instead of mapping it
      --weights WHERE     ternary weights: map (where the file has them), 2bit or tri5
                          (copied into large pages, five to a byte) or auto (a copy of
                          what no cache holds, in the faster of the two; the default)
      --i2s-layout L      order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE    a kernel_config.ini: tile sizes of TL1 and TL2 tensors
      --json              one JSON object instead of text: ids, text, stop reason, timings
  -q, --quiet             nothing on stderr when all goes well
  -v, --verbose           say which model, kernel and threads are used
  -h, --help              this text

Ctrl-C ends the generation and keeps what there is (exit 130); a second one exits at once. So do
SIGTERM (exit 143) and SIGHUP (exit 129).
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
    Flag::switch(&["--greedy"]),
    Flag::one(&["--temperature", "--temp"]),
    Flag::one(&["--top-k"]),
    Flag::one(&["--top-p"]),
    Flag::one(&["--min-p"]),
    Flag::one(&["--repeat-penalty"]),
    Flag::one(&["--repeat-last-n"]),
    Flag::one(&["-s", "--seed"]),
    Flag::many(&["--stop"]),
    Flag::switch(&["--ignore-eos"]),
    Flag::one(&["-t", "--threads"]),
    Flag::one(&["-b", "--batch-size"]),
    Flag::one(&["--isa"]),
    Flag::switch(&["--no-mmap"]),
    Flag::one(&["--weights"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["--json"]),
    Flag::switch(&["-q", "--quiet"]),
    Flag::switch(&["-v", "--verbose"]),
];

/// What to continue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// This text.
    Text(String),
    /// Whatever comes from stdin.
    Stdin,
    /// A file's text.
    File(PathBuf),
    /// These ids, exactly.
    Tokens(Vec<u32>),
}

/// `bitnet run`, understood.
#[derive(Debug)]
pub(crate) struct RunArgs {
    pub(crate) model: ModelArgs,
    pub(crate) prompt: Prompt,
    /// Tokens to generate at most; `None` until the model ends or the context is full.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: Sampling,
    /// Texts that end the generation.
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: bool,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    line.at_most_one(&["--prompt", "--file", "--tokens"])?;
    line.at_most_one(&["--quiet", "--verbose"])?;
    let max_tokens: Option<i64> = line.number("--max-tokens", -1..=i64::from(u32::MAX))?;
    let stop = line.texts("--stop")?;
    if stop.iter().any(String::is_empty) {
        return Err(Failure::misuse("--stop", "expected a text of at least one character"));
    }
    let args = RunArgs {
        model: ModelArgs::parse(line)?,
        prompt: prompt(line)?,
        max_tokens: max_tokens.and_then(|n| usize::try_from(n).ok()), // -1 is no limit
        sampling: Sampling::parse(line)?,
        stop,
        ignore_eos: line.has("--ignore-eos"),
        json: line.has("--json"),
        quiet: line.has("--quiet"),
        verbose: line.has("--verbose"),
    };
    args.model.check("run")?;
    Ok(Command::Run(Box::new(args)))
}

/// What to continue, for every verb that continues something.
pub(super) fn prompt(line: &Line) -> Result<Prompt, Failure> {
    if let Some(ids) = line.numbers("--tokens", 0..=u32::MAX)? {
        return Ok(Prompt::Tokens(ids));
    }
    if let Some(path) = line.path("--file")? {
        return Ok(if path.as_os_str() == "-" { Prompt::Stdin } else { Prompt::File(path) });
    }
    match line.text("--prompt")? {
        Some(text) if text == "-" => Ok(Prompt::Stdin),
        Some(text) => Ok(Prompt::Text(text)),
        None => Err(Failure::misuse(
            "--prompt",
            "expected a text to continue (or --file FILE, or --tokens 1,2,3)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn parse_run(words: &[&str]) -> Result<RunArgs, Failure> {
        let args = words.iter().map(OsString::from).collect();
        match parse(&Line::read("run", FLAGS, args)?)? {
            Command::Run(args) => Ok(*args),
            other => panic!("expected a run, got {other:?}"),
        }
    }

    #[test]
    fn defaults_are_left_to_the_engine() {
        let args = parse_run(&["-m", "a.gguf", "-p", ""]).unwrap();
        assert_eq!(args.prompt, Prompt::Text(String::new()));
        assert_eq!((args.max_tokens, args.model.isa, args.model.n_threads), (None, None, None));
        assert!(args.sampling.temperature.is_none() && args.sampling.seed.is_none());
    }

    #[test]
    fn the_prompt_comes_from_one_place() {
        let prompt = |words: &[&str]| parse_run(&[&["-m", "a.gguf"], words].concat()).map(|args| args.prompt);
        assert_eq!(prompt(&["-p", "-"]).unwrap(), Prompt::Stdin);
        assert_eq!(prompt(&["-f", "-"]).unwrap(), Prompt::Stdin);
        assert_eq!(prompt(&["-f", "x.txt"]).unwrap(), Prompt::File("x.txt".into()));
        assert_eq!(prompt(&["--tokens", "1,2"]).unwrap(), Prompt::Tokens(vec![1, 2]));
        assert!(matches!(prompt(&["-p", "a", "--tokens", "1"]), Err(Failure::Misuse(_))));
        assert!(matches!(prompt(&[]), Err(Failure::Misuse(_))));
        assert!(matches!(prompt(&["--tokens", ""]), Err(Failure::Misuse(_))));
    }

    #[test]
    fn greedy_is_temperature_zero_and_excludes_another() {
        let run = |words: &[&str]| parse_run(&[&["-m", "a.gguf", "-p", "a"], words].concat());
        assert_eq!(run(&["--greedy"]).unwrap().sampling.temperature, Some(0.0));
        assert!(matches!(run(&["--greedy", "--temp", "1"]), Err(Failure::Misuse(_))));
        assert_eq!(run(&["-n", "-1"]).unwrap().max_tokens, None);
        assert_eq!(run(&["--n-predict", "0"]).unwrap().max_tokens, Some(0));
    }
}
