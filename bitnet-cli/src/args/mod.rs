//! The command line: help texts and parsers side by side, one file per verb, and the table of verbs.
//!
//! To add a verb: a file here with its `VERB`, a line in [`VERBS`], a variant of [`Command`], a file in `cmd/`.

mod line;
mod model;
mod run;
mod sampling;

#[cfg(feature = "full-cli")]
mod bench;
#[cfg(feature = "full-cli")]
mod chat;
#[cfg(feature = "full-cli")]
mod completions;
#[cfg(feature = "full-cli")]
mod convert;
#[cfg(feature = "full-cli")]
mod doctor;
#[cfg(feature = "full-cli")]
mod eval;
#[cfg(feature = "full-cli")]
mod inspect;
#[cfg(feature = "full-cli")]
mod parity;
#[cfg(feature = "full-cli")]
mod perplexity;
#[cfg(feature = "full-cli")]
mod profile;
#[cfg(feature = "full-cli")]
mod quantize;
#[cfg(feature = "full-cli")]
mod synth;

use std::ffi::OsString;

use crate::exit::Failure;
use line::{Flag, Line};

pub(crate) use model::{ModelArgs, ReadingArgs};
pub(crate) use run::{Prompt, RunArgs};
pub(crate) use sampling::Sampling;

#[cfg(feature = "full-cli")]
pub(crate) use bench::{BenchArgs, Format, Source};
#[cfg(feature = "full-cli")]
pub(crate) use chat::ChatArgs;
#[cfg(feature = "full-cli")]
pub(crate) use convert::ConvertArgs;
#[cfg(feature = "full-cli")]
pub(crate) use doctor::DoctorArgs;
#[cfg(feature = "full-cli")]
pub(crate) use eval::EvalArgs;
#[cfg(feature = "full-cli")]
pub(crate) use inspect::InspectArgs;
#[cfg(feature = "full-cli")]
pub(crate) use model::word_of;
#[cfg(feature = "full-cli")]
pub(crate) use parity::{CompareArgs, ParityArgs, RecordArgs, Source as LogSource};
#[cfg(feature = "full-cli")]
pub(crate) use perplexity::PerplexityArgs;
#[cfg(feature = "full-cli")]
pub(crate) use profile::ProfileArgs;
#[cfg(feature = "full-cli")]
pub(crate) use quantize::QuantizeArgs;
#[cfg(feature = "full-cli")]
pub(crate) use synth::SynthArgs;

/// What the user asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Print this and be done: help, version.
    Say(String),
    /// Continue a prompt.
    Run(Box<RunArgs>),
    /// Talk.
    #[cfg(feature = "full-cli")]
    Chat(Box<ChatArgs>),
    /// Say what a model file holds.
    #[cfg(feature = "full-cli")]
    Inspect(Box<InspectArgs>),
    /// Measure speed.
    #[cfg(feature = "full-cli")]
    Bench(Box<BenchArgs>),
    /// Compare two runs' logits, or record them.
    #[cfg(feature = "full-cli")]
    Parity(ParityArgs),
    /// Say where a run's time goes.
    #[cfg(feature = "full-cli")]
    Profile(Box<ProfileArgs>),
    /// Measure how well a text is predicted.
    #[cfg(feature = "full-cli")]
    Perplexity(Box<PerplexityArgs>),
    /// Count right answers.
    #[cfg(feature = "full-cli")]
    Eval(Box<EvalArgs>),
    /// Examine the machine.
    #[cfg(feature = "full-cli")]
    Doctor(DoctorArgs),
    /// Write a checkpoint as a model file.
    #[cfg(feature = "full-cli")]
    Convert(ConvertArgs),
    /// Write a model in another format.
    #[cfg(feature = "full-cli")]
    Quantize(Box<QuantizeArgs>),
    /// Write a synthetic model.
    #[cfg(feature = "full-cli")]
    Synth(SynthArgs),
}

/// A verb of the command line.
struct Verb {
    name: &'static str,
    /// What it does, in one line of the global help.
    summary: &'static str,
    /// All of `bitnet <verb> --help`.
    help: &'static str,
    flags: &'static [Flag],
    parse: fn(&Line) -> Result<Command, Failure>,
}

/// Every verb of this build, in the order of the help.
const VERBS: &[Verb] = &[
    run::VERB,
    #[cfg(feature = "full-cli")]
    chat::VERB,
    #[cfg(feature = "full-cli")]
    inspect::VERB,
    #[cfg(feature = "full-cli")]
    bench::VERB,
    #[cfg(feature = "full-cli")]
    parity::VERB,
    #[cfg(feature = "full-cli")]
    profile::VERB,
    #[cfg(feature = "full-cli")]
    perplexity::VERB,
    #[cfg(feature = "full-cli")]
    eval::VERB,
    #[cfg(feature = "full-cli")]
    convert::VERB,
    #[cfg(feature = "full-cli")]
    quantize::VERB,
    #[cfg(feature = "full-cli")]
    synth::VERB,
    #[cfg(feature = "full-cli")]
    doctor::VERB,
    #[cfg(feature = "full-cli")]
    completions::VERB,
];

/// Reads the command line, without the program's name.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Command, Failure> {
    let mut args = pico_args::Arguments::from_vec(args);
    let verb = args
        .subcommand()
        .map_err(|_| Failure::misuse("bitnet", "expected a verb in UTF-8; see `bitnet --help`"))?;
    let Some(name) = verb else { return without_verb(args) };
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else { return Err(unknown_verb(&name)) };
    let line = Line::read(verb.name, verb.flags, args.finish())?;
    if line.help { Ok(Command::Say(verb.help.to_owned())) } else { (verb.parse)(&line) }
}

fn without_verb(mut args: pico_args::Arguments) -> Result<Command, Failure> {
    if args.contains(["-V", "--version"]) {
        return Ok(Command::Say(format!("bitnet {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let _ = args.contains(["-h", "--help"]); // plain `bitnet` asks for the same
    match args.finish().first() {
        None => Ok(Command::Say(help())),
        Some(arg) => {
            let what = arg.to_string_lossy().escape_debug().to_string();
            Err(Failure::misuse(&what, "expected a verb first, as in `bitnet run ...`; see `bitnet --help`"))
        }
    }
}

fn unknown_verb(name: &str) -> Failure {
    let near = VERBS.iter().map(|verb| (line::distance(verb.name, name), verb.name)).min();
    let hint = near.filter(|(distance, _)| *distance <= 2);
    let hint = hint.map_or_else(String::new, |(_, verb)| format!("did you mean {verb}? "));
    let known: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
    let what = name.escape_debug().to_string();
    Failure::misuse(&what, &format!("no such verb; {hint}expected one of {}", known.join(", ")))
}

/// `bitnet --help`.
fn help() -> String {
    let mut text = String::from(
        "bitnet runs 1.58-bit (ternary) language models on the CPU.\n\nUsage: bitnet <verb> [flags]\n\nVerbs:\n",
    );
    for verb in VERBS {
        text += &format!("  {:11} {}\n", verb.name, verb.summary);
    }
    text + "
Flags:
  -h, --help     this text; after a verb, the verb's own
  -V, --version  the version

Text goes to stdout, everything else to stderr.
Exit codes: 0 done, 1 failed, 2 misused, 3 bad or unsupported model file,
            4 parity mismatch, 5 a check fell short, 130 interrupted
            (143 by SIGTERM, 129 by SIGHUP).
"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Command, Failure> {
        parse(words.split_whitespace().map(OsString::from).collect())
    }

    /// The two lists that must agree: what a verb's help shows and what its parser knows.
    #[test]
    fn every_help_lists_exactly_the_flags_that_exist() {
        for verb in VERBS {
            let (_, flags) = verb.help.split_once("\nFlags:\n").expect("a help text has a list of flags");
            let flags = flags.split_once("\n\n").map_or(flags, |(flags, _)| flags);
            let mut shown = Vec::new();
            for entry in flags.lines().filter(|line| line.trim_start().starts_with('-')) {
                let names = entry.trim_start().split("  ").next().unwrap_or_default();
                let names = names.split([',', ' ']).filter(|word| word.starts_with('-'));
                shown.extend(names.filter(|name| !matches!(*name, "-h" | "--help")));
            }
            let mut known: Vec<&str> = verb.flags.iter().flat_map(|flag| flag.names).copied().collect();
            shown.sort_unstable();
            known.sort_unstable();
            assert_eq!(shown, known, "bitnet {} --help", verb.name);
        }
    }

    #[test]
    fn every_verb_that_says_more_than_its_answer_can_be_quiet() {
        for verb in VERBS.iter().filter(|verb| verb.name != "completions") {
            assert!(verb.flags.iter().any(|flag| flag.names == ["-q", "--quiet"]), "{}", verb.name);
        }
    }

    #[test]
    fn where_the_demo_model_is_the_default_an_example_has_it() {
        let mut n_verbs = 0;
        for verb in VERBS.iter().filter(|verb| verb.help.contains("(default: the demo model")) {
            let (_, examples) = verb.help.split_once("\nExamples:\n").expect("a help text has examples");
            let mut examples = examples.lines().take_while(|line| !line.is_empty());
            let names_no_model = |line: &str| {
                line.starts_with(&format!("  bitnet {}", verb.name))
                    && !["-m ", "--synthetic "].iter().any(|other| line.contains(other))
            };
            assert!(examples.any(names_no_model), "bitnet {} --help", verb.name);
            n_verbs += 1;
        }
        assert!(n_verbs >= 1);
    }

    #[test]
    fn help_texts_fit_a_terminal() {
        for text in VERBS.iter().map(|verb| verb.help.to_owned()).chain([help()]) {
            for line in text.lines() {
                assert!(line.chars().count() <= 100, "too wide: {line}");
                assert!(!line.ends_with(' '), "trailing space: {line}");
            }
            assert!(text.ends_with('\n') && text.contains("Usage: bitnet "));
        }
    }

    #[test]
    fn help_and_version_need_no_verb() {
        for words in ["", "-h", "--help"] {
            let Ok(Command::Say(text)) = parse_words(words) else { panic!("{words:?} is not help") };
            assert!(VERBS.iter().all(|verb| text.contains(verb.summary)));
        }
        assert!(matches!(parse_words("--version"), Ok(Command::Say(text)) if text.starts_with("bitnet ")));
        assert!(matches!(parse_words("run -n 4 --help"), Ok(Command::Say(text)) if text == run::VERB.help));
    }

    #[test]
    fn an_unknown_verb_is_answered_with_those_there_are() {
        let Err(Failure::Misuse(sentence)) = parse_words("rum") else { panic!("`rum` is no verb") };
        assert!(
            sentence.starts_with("rum: no such verb; did you mean run? expected one of run"),
            "{sentence}"
        );
        assert!(matches!(parse_words("--frobnicate"), Err(Failure::Misuse(_))));
    }
}
