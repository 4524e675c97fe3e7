//! `bitnet completions`: the table of verbs and flags, as shells want it.
//!
//! Names come from the table that the parser uses, descriptions from the help texts; a test keeps these two together.

use super::line::{Flag, Line, Takes};
use super::{Command, VERBS, Verb};
use crate::exit::Failure;

pub(super) const VERB: Verb = Verb {
    name: "completions",
    summary: "write a completion script for bash, zsh or fish",
    help: HELP,
    flags: &[],
    parse,
};

const HELP: &str = "\
Writes a script that completes verbs, flags and file names, to stdout.

Usage: bitnet completions bash|zsh|fish

Examples:
  bitnet completions bash > ~/.local/share/bash-completion/completions/bitnet
  bitnet completions zsh > ~/.zfunc/_bitnet
  bitnet completions fish > ~/.config/fish/completions/bitnet.fish

Flags:
  -h, --help  this text
";

fn parse(line: &Line) -> Result<Command, Failure> {
    let shells = "expected one of bash, zsh, fish";
    let Some(shell) = line.word("SHELL")? else { return Err(Failure::misuse("completions", shells)) };
    match shell.to_str() {
        Some("bash") => Ok(Command::Say(bash())),
        Some("zsh") => Ok(Command::Say(zsh())),
        Some("fish") => Ok(Command::Say(fish())),
        _ => Err(Failure::misuse(&shell.to_string_lossy().escape_debug().to_string(), shells)),
    }
}

/// A flag with what its verb's help says of it.
struct Described {
    flag: &'static Flag,
    /// What the help calls its value: `FILE`, `N`.
    value: &'static str,
    /// The first line of its description.
    text: &'static str,
}

/// The flags of a verb, then `--help`, which every verb has.
fn described(verb: &'static Verb) -> impl Iterator<Item = Described> {
    const ASKS_FOR_HELP: Flag = Flag::switch(&["-h", "--help"]);
    verb.flags.iter().chain([&ASKS_FOR_HELP]).map(move |flag| {
        let (value, text) = help_of(verb, flag).unwrap_or(("", ""));
        Described { flag, value, text }
    })
}

/// The value's name and the description of `flag` in the verb's help.
fn help_of(verb: &'static Verb, flag: &Flag) -> Option<(&'static str, &'static str)> {
    let (_, list) = verb.help.split_once("\nFlags:\n")?;
    let mut lines = list.lines();
    let entry = lines.by_ref().map(str::trim_start).find(|line| {
        let names = line.split("  ").next().unwrap_or_default();
        line.starts_with('-') && names.split([',', ' ']).any(|name| flag.names.contains(&name))
    })?;
    let (names, text) = entry.split_once("  ").unwrap_or((entry, ""));
    let value = names.rsplit(' ').next().filter(|word| !word.starts_with('-')).unwrap_or("");
    // A long list of names has the line to itself.
    let text = if text.is_empty() { lines.next().unwrap_or_default() } else { text };
    Some((value, text.trim()))
}

fn names(flags: impl Iterator<Item = Described>) -> String {
    flags.flat_map(|described| described.flag.names).copied().collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let verbs: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
    let mut cases = String::new();
    for verb in VERBS {
        let all = names(described(verb));
        let with_value = names(described(verb).filter(|described| described.flag.takes != Takes::Nothing));
        cases += &format!("        {}) flags=\"{all}\" values=\" {with_value} \" ;;\n", verb.name);
    }
    format!(
        "# bash completion for bitnet; written by `bitnet completions bash`
_bitnet() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} flags= values=
    COMPREPLY=()
    if [ \"$COMP_CWORD\" -eq 1 ]; then
        COMPREPLY=($(compgen -W \"{} --help --version\" -- \"$cur\"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}        *) return ;;
    esac
    if [[ $values == *\" $prev \"* ]]; then
        COMPREPLY=($(compgen -f -- \"$cur\"))
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W \"$flags\" -- \"$cur\"))
    else
        case ${{COMP_WORDS[1]}} in
            completions) COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$cur\")) ;;
            *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;
        esac
    fi
}}
complete -o filenames -F _bitnet bitnet
",
        verbs.join(" ")
    )
}

fn zsh() -> String {
    // Single quotes end the word for the shell; brackets and colons end the description for _arguments.
    let escape = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
        text.replace('\'', "'\\''")
    };
    let mut verbs = String::new();
    let mut cases = String::new();
    for verb in VERBS {
        verbs += &format!("        '{}:{}'\n", verb.name, escape(verb.summary));
        cases += &format!("        {})\n            _arguments \\\n", verb.name);
        for Described { flag, value, text } in described(verb) {
            let excludes = match flag.takes {
                Takes::Many => "*".to_owned(),
                _ => format!("({})", flag.names.join(" ")),
            };
            let value = match (flag.takes, value) {
                (Takes::Nothing, _) => String::new(),
                (_, "FILE" | "OUT") => format!(":{value}:_files"),
                (_, value) => format!(":{value}:"),
            };
            for name in flag.names {
                cases += &format!("                '{excludes}{name}[{}]{value}' \\\n", escape(text));
            }
        }
        let words = if verb.name == VERB.name { "'1:shell:(bash zsh fish)'" } else { "'*:file:_files'" };
        cases += &format!("                {words}\n            ;;\n");
    }
    format!(
        "#compdef bitnet
# zsh completion for bitnet; written by `bitnet completions zsh`
_bitnet() {{
    local -a verbs
    verbs=(
{verbs}    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    local verb=$words[2]
    shift words
    (( CURRENT-- ))
    case $verb in
{cases}    esac
}}
if [ \"$funcstack[1]\" = _bitnet ]; then _bitnet \"$@\"; else compdef _bitnet bitnet; fi
"
    )
}

fn fish() -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut script = String::from("# fish completion for bitnet; written by `bitnet completions fish`\n");
    for verb in VERBS {
        script += &format!(
            "complete -c bitnet -n __fish_use_subcommand -f -a {} -d {}\n",
            verb.name,
            quote(verb.summary)
        );
    }
    for verb in VERBS {
        let seen = format!("'__fish_seen_subcommand_from {}'", verb.name);
        for Described { flag, value, text } in described(verb) {
            let spelt: String = flag
                .names
                .iter()
                .map(|name| match name.strip_prefix("--") {
                    Some(long) => format!(" -l {long}"),
                    None => format!(" -s {}", name.trim_start_matches('-')),
                })
                .collect();
            let value = match (flag.takes, value) {
                (Takes::Nothing, _) => "",
                (_, "FILE" | "OUT") => " -r -F",
                _ => " -x",
            };
            script += &format!("complete -c bitnet -n {seen}{spelt}{value} -d {}\n", quote(text));
        }
    }
    script + "complete -c bitnet -n '__fish_seen_subcommand_from completions' -f -a 'bash zsh fish'\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_a_description_and_a_value_if_it_takes_one() {
        for verb in VERBS {
            for Described { flag, value, text } in described(verb) {
                let what = format!("bitnet {} {:?}: {value:?} {text:?}", verb.name, flag.names);
                assert!(text.chars().count() > 4, "{what}");
                assert_eq!(flag.takes == Takes::Nothing, value.is_empty(), "{what}");
            }
        }
    }

    #[test]
    fn every_script_knows_every_verb_and_flag() {
        let (bash, zsh, fish) = (bash(), zsh(), fish());
        for verb in VERBS {
            assert!(bash.contains(&format!("        {}) flags=", verb.name)));
            assert!(zsh.contains(&format!("        {})\n", verb.name)));
            assert!(fish.contains(&format!(" -a {} -d ", verb.name)));
            for name in verb.flags.iter().flat_map(|flag| flag.names) {
                assert!(zsh.contains(&format!("{name}[")), "{name}");
                let spelt = match name.strip_prefix("--") {
                    Some(long) => format!(" -l {long} "),
                    None => format!(" -s {} ", &name[1..]),
                };
                assert!(fish.contains(&spelt), "{name}");
            }
        }
    }
}
