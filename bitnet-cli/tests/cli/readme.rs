//! The README: it lists what there is, and shows what a run prints.

use std::fs;
use std::path::PathBuf;

use crate::golden::with_switches;
use crate::support::{Ran, words};
#[cfg(feature = "demo")]
use crate::tiny::with_stdin;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("the README lies beside the crates")
}

/// The lines of the first fenced block of this language after `mark`.
fn block(readme: &str, mark: &str, language: &str) -> Vec<String> {
    let (_, rest) = readme.split_once(mark).unwrap_or_else(|| panic!("the README lacks {mark}"));
    let (_, rest) = rest.split_once(&format!("```{language}\n")).expect("a block follows");
    rest.lines().take_while(|line| *line != "```").map(str::to_owned).collect()
}

#[test]
fn every_verb_is_in_the_table() {
    let help = words("--help");
    let (_, verbs) = help.done().split_once("Verbs:\n").expect("the help lists verbs");
    let verbs: Vec<&str> = verbs
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() >= 4, "{verbs:?}");
    for verb in verbs {
        assert!(readme().contains(&format!("\n| `{verb}` | ")), "the README's table of verbs lacks {verb}");
    }
}

/// The commands of the README, as far as they run this binary, and what it shows of their output.
#[test]
fn the_trace_lines_shown_are_those_of_the_commands_above_them() {
    let readme = readme();
    for (switch, heading) in [
        ("BITNET_PARITY", "**Which tokens"),
        ("BITNET_TRACE_QUANT", "**Which kernel"),
        ("BITNET_TRACE_TIMING", "**Where the time"),
    ] {
        let [command] = &block(&readme, heading, "sh")[..] else { panic!("one command after {heading}") };
        let start = format!("{switch}=1 cargo run --release --features instrument -- ");
        let args = command.strip_prefix(&start).unwrap_or_else(|| panic!("{command}\nexpected {start}"));
        let ran: Ran = with_switches(args.split_whitespace(), &[(switch, "1")])
            .current_dir(root())
            .output()
            .expect("the binary starts")
            .into();
        ran.done();
        if !cfg!(feature = "instrument") {
            continue; // it says that it cannot obey, which is for others to test
        }
        let shown = block(&readme, heading, "text");
        let (shown, cut_short) = match shown.split_last() {
            Some((last, lines)) if last == "..." => (lines, true),
            _ => (&shown[..], false),
        };
        let printed: Vec<String> = ran.stderr.lines().map(comparable).collect();
        let shown: Vec<String> = shown.iter().map(|line| comparable(line)).collect();
        assert!(!shown.is_empty() && printed.starts_with(&shown), "{shown:#?}\n{printed:#?}");
        assert_eq!(printed.len() > shown.len(), cut_short, "... stands for lines left out, after {heading}");
    }
}

/// A line without what differs between machines: the kernel, and times.
fn comparable(line: &str) -> String {
    let word = |word: &str| match word.split_once('=') {
        Some(("kernel", _)) => "kernel=".to_owned(),
        Some((name, _)) if name.ends_with("_us") => format!("{name}="),
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The conversation shown: what is typed gets the replies below it.
#[cfg(feature = "demo")]
#[test]
fn the_conversation_shown_is_what_the_demo_model_says() {
    let lines = block(&readme(), "The model also", "console");
    let start = lines.iter().position(|line| line.starts_with("> ")).expect("somebody types");
    let typed = |line: &String| line.strip_prefix("> ").map(str::to_owned);
    let asked: Vec<String> = lines[start..].iter().filter_map(typed).collect();
    let replies: Vec<&String> = lines[start..].iter().filter(|line| typed(line).is_none()).collect();
    assert!(replies.len() >= 4, "{lines:?}");
    let ran = with_stdin(["chat", "-q"], (asked.join("\n") + "\n").as_bytes());
    assert_eq!(ran.done().lines().collect::<Vec<_>>(), replies);
}
