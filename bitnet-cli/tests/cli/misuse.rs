//! Help, version, and one sentence for every way to hold it wrong.

use crate::support::{bitnet, words};

#[test]
fn help_goes_to_stdout_and_succeeds() {
    for line in ["", "--help", "-h", "run --help", "run -m nowhere.gguf -h"] {
        let ran = words(line);
        assert!(ran.done().contains("Usage: bitnet "), "{ran:?}");
        assert_eq!(ran.stderr, "");
    }
    assert_eq!(words("--version").done(), format!("bitnet {}\n", env!("CARGO_PKG_VERSION")));
}

#[cfg(feature = "full-cli")]
#[test]
fn every_verb_of_the_help_has_a_help_with_examples() {
    let help = words("--help").stdout;
    let (_, verbs) = help.split_once("Verbs:\n").unwrap();
    let verbs = verbs.lines().take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"run") && verbs.contains(&"inspect"), "{help}");
    for verb in verbs {
        let ran = bitnet([verb, "--help"]);
        let example = format!("Examples:\n  bitnet {verb}");
        assert!(ran.done().contains(&format!("Usage: bitnet {verb} ")), "{ran:?}");
        assert!(ran.stdout.contains(&example), "{ran:?}");
    }
}

#[test]
fn misuse_exits_2_and_names_the_flag_and_what_is_accepted() {
    for (line, says) in [
        ("rum", "rum: no such verb; did you mean run? expected one of run"),
        ("--frobnicate", "--frobnicate: expected a verb first"),
        ("run", "--prompt: expected a text to continue"),
        ("run -m a -p hi --frobnicate", "--frobnicate: no such flag; `bitnet run --help`"),
        ("run -m a --promt hi", "--promt: no such flag; did you mean --prompt?"),
        ("run -m a -p hi there", "there: unexpected word"),
        ("run -m a -p hi -n", "-n: expected a value after it"),
        ("run -m a -p hi -n -2", "-n -2: expected a number from -1 to "),
        ("run -m a -p hi -n 1 -n 2", "-n: given twice"),
        ("run -m a -p hi --temp nan", "--temp nan: expected a number from 0 to 100"),
        ("run -m a -p hi --top-p 1.5", "--top-p 1.5: expected a number from 0 to 1"),
        ("run -m a -p hi --threads 0", "--threads 0: expected a number from 1 to "),
        ("run -m a -p hi -c 1048577", "-c 1048577: expected a number from 0 to "),
        ("run -m a -p hi --isa sse2", "--isa sse2: expected one of auto, scalar, avx2, avx512, neon"),
        ("run -m a -p hi --seed -2", "--seed -2: expected a number from -1 to 18446744073709551615"),
        ("run -m a -p hi --repeat-last-n -2", "--repeat-last-n -2: expected a number from -1 to 1048576"),
        ("run -m a -p hi --stop=", "--stop: expected a text of at least one character"),
        ("run -m a --tokens 1,x", "--tokens x: expected a number from 0 to 4294967295"),
        ("run -m a -p hi --tokens 1", "-p and --tokens: expected one of them, not both"),
        ("run -m a -p hi --greedy --temp 1", "--greedy and --temp: expected one of them, not both"),
        ("run -m a -p hi --quiet -v", "--quiet and -v: expected one of them, not both"),
        ("run -m a -p hi --greedy=yes", "--greedy: takes no value"),
    ] {
        let ran = words(line);
        assert!(ran.refused(2).starts_with(says), "bitnet {line}\n{ran:?}\nexpected {says}");
    }
}

#[cfg(feature = "full-cli")]
#[test]
fn misuse_of_the_other_verbs_exits_2_too() {
    for (line, says) in [
        ("inspect a b", "b: unexpected word"),
        ("inspect a -m b", "--model and FILE: expected one of them"),
        ("synth", "synth: expected a file to write"),
        ("synth --shape huge a", "--shape huge: expected one of tiny, small, "),
        ("synth --zeros 2 a", "--zeros 2: expected a number from 0 to 1"),
        ("bench -m a --synthetic tiny", "-m and --synthetic: expected one of them"),
        ("bench -m a -p 0 -n 0", "--n-prompt and --n-gen: all are 0"),
        ("bench -m a -o xml", "-o xml: expected one of md, json, csv, jsonl"),
        ("bench -m a -t 1,0", "-t 0: expected a number from 1 to "),
        ("parity a.log", "parity: expected two logs"),
        ("parity a.log b.log -m c.gguf", "--model: belongs to a recording"),
        ("parity --record a.log -m c.gguf", "--prompt: expected a text to continue"),
        ("profile -m a", "--prompt: expected a text to continue"),
        ("bench -m a --receipt no/such/folder/r.json", "--receipt no/such/folder/r.json: its folder"),
    ] {
        let ran = words(line);
        assert!(ran.refused(2).starts_with(says), "bitnet {line}\n{ran:?}\nexpected {says}");
    }
}

#[cfg(not(feature = "demo"))]
#[test]
fn a_binary_without_a_model_of_its_own_asks_for_one() {
    let says = "--model: expected a GGUF file, as in `bitnet run -m model.gguf ...`";
    assert_eq!(words("run -p hi").refused(2), says);
    #[cfg(feature = "full-cli")]
    for line in ["chat", "profile --tokens 1", "parity --record a.log --tokens 1"] {
        assert!(words(line).refused(2).starts_with("--model: expected a GGUF file"), "bitnet {line}");
    }
    #[cfg(feature = "full-cli")]
    {
        assert!(words("inspect").refused(2).starts_with("inspect: expected a file"));
        assert!(words("bench").refused(2).starts_with("bench: expected a model"));
    }
}

#[cfg(not(feature = "full-cli"))]
#[test]
fn the_small_build_has_one_verb() {
    assert!(words("inspect a").refused(2).ends_with("expected one of run"));
}

#[cfg(unix)]
#[test]
fn arguments_that_are_no_text_are_refused_without_a_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bad = OsStr::from_bytes(b"\xff\xfe");
    let run = OsStr::new("run");
    bitnet([bad]).refused(2);
    bitnet([run, bad]).refused(2);
    assert_eq!(bitnet([run, OsStr::new("-p"), bad]).refused(2), "-p: expected UTF-8 text");
    bitnet([run, OsStr::from_bytes(b"--\xff")]).refused(2);
    // A file name need not be text.
    let ran = bitnet([run, OsStr::new("-p"), OsStr::new("x"), OsStr::new("-m"), bad]);
    assert!(ran.refused(1).starts_with("cannot open "), "{ran:?}");
}
