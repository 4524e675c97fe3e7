//! `bitnet completions`, as the shells understand them.

use std::process::Command;

use crate::support::words;

/// What bash offers for the last of `line`'s words.
fn offered(line: &str) -> Vec<String> {
    let script = words("completions bash").done().to_owned();
    let ask = format!(
        "{script}\nCOMP_WORDS=({line}) COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _bitnet; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_verbs_flags_and_files() {
    assert_eq!(offered("bitnet ru"), ["run"]);
    assert_eq!(offered("bitnet com"), ["completions"]);
    assert_eq!(offered("bitnet con"), ["convert"]);
    assert_eq!(offered("bitnet convert --em"), ["--embd"]);
    assert_eq!(offered("bitnet run --max"), ["--max-tokens"]);
    assert_eq!(offered("bitnet bench --syn"), ["--synthetic"]);
    assert!(offered("bitnet chat --").len() > 10);
    assert_eq!(offered("bitnet run -m Cargo.tom"), ["Cargo.toml"]);
    assert_eq!(offered("bitnet inspect Cargo.tom"), ["Cargo.toml"]);
    assert_eq!(offered("bitnet completions z"), ["zsh"]);
    assert_eq!(offered("bitnet nonsense --m"), [""]);
}

#[test]
fn a_shell_is_named_and_known() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = words(&format!("completions {shell}"));
        assert!(ran.done().contains(&format!("written by `bitnet completions {shell}`")));
        assert_eq!(ran.stderr, "");
    }
    assert_eq!(words("completions").refused(2), "completions: expected one of bash, zsh, fish");
    assert_eq!(words("completions tcsh").refused(2), "tcsh: expected one of bash, zsh, fish");
}
