//! `bitnet chat`.

use bitnet_core::tokenizer::ChatFormat;

use super::line::{Flag, Line};
use super::{Command, ModelArgs, Sampling, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb =
    Verb { name: "chat", summary: "talk with a model, turn by turn", help: HELP, flags: FLAGS, parse };

const HELP: &str = "\
Talks with a model, turn by turn, in the chat format it was trained for. Replies go to stdout. From
a pipe, every line is a turn.

Usage: bitnet chat [-m FILE] [flags]

Examples:
  bitnet chat
  bitnet chat -m model.gguf
  bitnet chat -m model.gguf --system \"Answer in one sentence.\" --temp 0.3
  printf 'My name is Ada.\\nWhat is my name?\\n' | bitnet chat -m model.gguf --greedy -n 64

Flags:
  -m, --model FILE        a GGUF file or a checkpoint's directory (default: the demo model)
      --tokenizer FILE    a tokenizer.json, instead of the vocabulary in the model
      --pre NAME          pre-split rule of the vocabulary, instead of the model's own
      --chat-template NAME
                          bitnet, llama3, falcon3, chatml or plain (default: the model's own)
      --system TEXT       instructions that stand before the conversation
  -n, --max-tokens, --n-predict N
                          at most N tokens in a reply; -1, the default: until the model ends it
  -c, --ctx-size N        positions in the context (default 0: what the model was trained for)
      --greedy            always the most likely token; ties go to the lowest id
      --temp, --temperature T
                          0 is greedy; above 1 flattens the choice (default 0.6; greedy for the
                          demo model)
      --top-k N           choose among the N most likely tokens; 0 is all (default 40)
      --top-p P           choose among the most likely tokens that together reach P (default 0.9)
      --min-p P           drop tokens less likely than P times the most likely one (default 0.05)
      --repeat-penalty R  above 1 makes recent tokens less likely (default 1, none)
      --repeat-last-n N   how many tokens are recent; -1 is all of the context (default 64)
  -s, --seed N            same seed, same replies (default 0); -1 is another one each time, told at
                          the end
  -t, --threads N         threads (default: the processors this process may use)
  -b, --batch-size N      prompt tokens computed together (default 512)
      --isa NAME          auto, scalar, avx2, avx512 or neon; the tokens are the same on all
      --no-mmap           read the model into memory instead of mapping it
      --weights WHERE     ternary weights: map (where the file has them), 2bit or tri5
                          (copied into large pages, five to a byte) or auto (a copy of
                          what no cache holds, in the faster of the two; the default)
      --i2s-layout L      order of I2_S codes: a, or b (bitnet.cpp on ARM since November 2025)
      --tl-config FILE    a kernel_config.ini: tile sizes of TL1 and TL2 tensors
  -q, --quiet             no greeting, no times at the end, nothing on stderr when all goes well
  -h, --help              this text

Type /help for the commands. Ctrl-C ends a reply and keeps what there is of it; at the prompt, it
leaves if pressed twice in a row, as Ctrl-D does.
";

const FLAGS: &[Flag] = &[
    Flag::one(&["-m", "--model"]),
    Flag::one(&["--tokenizer"]),
    Flag::one(&["--pre"]),
    Flag::one(&["--chat-template"]),
    Flag::one(&["--system"]),
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
    Flag::one(&["-t", "--threads"]),
    Flag::one(&["-b", "--batch-size"]),
    Flag::one(&["--isa"]),
    Flag::switch(&["--no-mmap"]),
    Flag::one(&["--weights"]),
    Flag::one(&["--i2s-layout"]),
    Flag::one(&["--tl-config"]),
    Flag::switch(&["-q", "--quiet"]),
];

/// `bitnet chat`, understood.
#[derive(Debug)]
pub(crate) struct ChatArgs {
    pub(crate) model: ModelArgs,
    /// The format, or whichever the model wants.
    pub(crate) format: Option<ChatFormat>,
    pub(crate) system: Option<String>,
    /// Tokens of a reply at most; `None` until the model ends it or the context is full.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: Sampling,
    pub(crate) quiet: bool,
}

fn parse(line: &Line) -> Result<Command, Failure> {
    line.no_words()?;
    let max_tokens: Option<i64> = line.number("--max-tokens", -1..=i64::from(u32::MAX))?;
    if max_tokens == Some(0) {
        return Err(Failure::misuse(
            "--max-tokens 0",
            "expected -1, or at least 1: a reply of nothing is none",
        ));
    }
    let args = ChatArgs {
        model: ModelArgs::parse(line)?,
        format: line.choice("--chat-template", &ChatFormat::ALL.map(|format| (format.name(), format)))?,
        system: line.text("--system")?.filter(|text| !text.is_empty()),
        max_tokens: max_tokens.and_then(|n| usize::try_from(n).ok()), // -1 is no limit
        sampling: Sampling::parse(line)?,
        quiet: line.has("--quiet"),
    };
    args.model.check("chat")?;
    Ok(Command::Chat(Box::new(args)))
}
