//! `bitnet run` on a tiny synthetic model, as a user meets it.

use crate::support::{Ran, bitnet, command};
use crate::tiny::{on_tiny, on_tiny_args, tiny, with_stdin};
use serde_json::{Value, json};

/// Sampling hot enough that even a synthetic model does not repeat itself.
const LIVELY: &str = "--temp 50 --top-k 0 --top-p 1 --min-p 0 --ignore-eos";

/// The object of a `--json` run that went well.
#[track_caller]
fn object(ran: &Ran) -> Value {
    serde_json::from_str(ran.done()).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn text_ends_its_line_and_is_the_text_of_json() {
    let ran = on_tiny("run", "-p ab -n 24 --greedy --ignore-eos --quiet");
    let object = object(&on_tiny("run", "-p ab -n 24 --greedy --ignore-eos --quiet --json"));
    let text = object["text"].as_str().unwrap();
    assert_eq!(ran.done().strip_suffix('\n').unwrap_or_default(), text.strip_suffix('\n').unwrap_or(text));
    assert_eq!(object["tokens"].as_array().unwrap().len(), 24);
    assert_eq!(object["stop"], "length");
}

#[test]
fn json_says_what_was_computed_and_how() {
    let object = object(&on_tiny("run", "-p ab -n 4 --greedy --ignore-eos --json --isa scalar -t 1"));
    assert_eq!(object["model"], tiny().to_str().unwrap());
    assert_eq!((&object["isa"], &object["threads"]), (&json!("scalar"), &json!(1)));
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    let prompt = object["prompt_tokens"].as_array().unwrap().len();
    assert!(prompt >= 1, "{object}");
    let timings = &object["timings"];
    assert!(timings["load_ms"].as_f64().unwrap() > 0.0);
    let ms = |phase: &str| timings[phase]["ms"].as_f64().unwrap();
    assert!(timings["wall_ms"].as_f64().unwrap() >= ms("prompt") + ms("eval"));
    assert_eq!((&timings["prompt"]["n"], &timings["eval"]["n"]), (&json!(prompt), &json!(3)));
    for phase in ["prompt", "eval"] {
        assert!(timings[phase]["ms"].as_f64().unwrap() > 0.0);
        assert!(timings[phase]["tok_per_s"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn token_ids_are_taken_exactly_as_given() {
    let object = object(&on_tiny("run", "--tokens 5,7,9 -n 1 --greedy --ignore-eos --json"));
    assert_eq!(object["prompt_tokens"], json!([5, 7, 9]));
}

#[test]
fn the_tokens_do_not_depend_on_how_they_are_computed() {
    let tokens = |flags: &str| {
        let line = format!("--tokens 5,7,9,11,13,15,17 -n 16 {LIVELY} --seed 3 --json {flags}");
        object(&on_tiny("run", &line))["tokens"].clone()
    };
    let expected = tokens("");
    assert_eq!(expected.as_array().unwrap().len(), 16);
    for flags in ["--isa scalar", "-t 1", "-t 2", "-b 1", "-b 3", "--no-mmap", "--weights 2bit"] {
        assert_eq!(tokens(flags), expected, "{flags}");
    }
}

#[test]
fn a_seed_decides_the_text() {
    let text = |seed: u32| {
        let line = format!("--tokens 5,7 -n 16 {LIVELY} --json --seed {seed}");
        object(&on_tiny("run", &line))["tokens"].clone()
    };
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn a_seed_of_minus_1_is_drawn_and_named_so_that_the_text_can_be_had_again() {
    let run = |seed: &str| {
        let ran = on_tiny("run", &format!("--tokens 5,7 -n 16 {LIVELY} --json --seed {seed}"));
        let object = object(&ran);
        (object["seed"].as_u64().unwrap(), object["tokens"].clone(), ran.stderr)
    };
    let (seed, text, said) = run("-1");
    assert!(said.contains(&format!("\nseed:        {seed}\n")), "{said}");
    let (_, again, said) = run(&seed.to_string());
    assert_eq!(again, text);
    assert!(!said.contains("seed"), "{said}");
    assert_ne!(run("-1").0, seed);
}

#[test]
fn all_tokens_of_the_context_are_recent_to_a_repeat_last_n_of_minus_1() {
    let tokens = |n: i32| {
        let line = "--tokens 5,7 -n 200 --greedy --repeat-penalty 100 --ignore-eos --json";
        object(&on_tiny("run", &format!("{line} --repeat-last-n {n}")))["tokens"].clone()
    };
    let expected = tokens(-1);
    assert_eq!(tokens(202), expected);
    assert_ne!(tokens(64), expected);
}

#[test]
fn a_prompt_is_the_same_from_a_flag_a_pipe_and_a_file() {
    let tokens = |ran: &Ran| object(ran)["prompt_tokens"].clone();
    let args = |how: &[&str]| {
        let mut args = on_tiny_args("run", "-n 1 --greedy --json");
        args.extend(how.iter().map(|&word| word.to_owned()));
        args
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "a b\n").unwrap();
    let expected = tokens(&bitnet(args(&["-p", "a b"])));
    assert_eq!(tokens(&with_stdin(args(&["-p", "-"]), b"a b\n")), expected);
    assert_eq!(tokens(&bitnet(args(&["-f", file.to_str().unwrap()]))), expected);
}

#[test]
fn quiet_leaves_stderr_silent_and_verbose_names_the_kernel() {
    let line = "-p ab -n 2 --greedy --ignore-eos --isa scalar";
    assert_eq!(on_tiny("run", &format!("{line} -q")).stderr, "");
    let usual = on_tiny("run", line).stderr;
    assert!(
        usual.contains("prompt eval: ") && usual.contains("\neval: ") && usual.contains("tokens/s"),
        "{usual}"
    );
    assert!(!usual.contains("scalar"), "{usual}");
    let verbose = on_tiny("run", &format!("{line} -v")).stderr;
    assert!(verbose.contains("kernel: scalar") && verbose.contains("threads: "), "{verbose}");
}

#[test]
fn a_full_context_ends_the_text_and_keeps_it() {
    let ran = on_tiny("run", "--tokens 5,7,9,11 -c 16 --greedy --ignore-eos --json");
    let object = object(&ran);
    // 16 positions hold 4 of the prompt and 12 of the text; one more token is chosen from the last one's logits.
    assert_eq!((&object["stop"], object["tokens"].as_array().unwrap().len()), (&json!("context"), 13));
    assert!(ran.stderr.contains("context is full at 16 positions"), "{ran:?}");
    assert!(ran.stderr.contains("--ctx-size"), "{ran:?}");
}

#[test]
fn a_context_of_0_is_the_models_own() {
    let text = |more: &str| on_tiny("run", &format!("--tokens 5,7,9,11 -n 8 --greedy -q{more}")).stdout;
    assert_eq!(text(" -c 0"), text(""));
    assert!(!text("").is_empty());
}

#[test]
fn a_prompt_that_does_not_fit_fails_in_one_sentence() {
    let ran = on_tiny("run", "--tokens 1,2,3,4,5 -c 4 -n 1");
    assert!(
        ran.refused(1).starts_with("context is full: 5 positions wanted, the context holds 4"),
        "{ran:?}"
    );
}

#[test]
fn a_token_outside_the_vocabulary_is_misuse() {
    assert!(on_tiny("run", "--tokens 1,4000000000 -n 1").refused(2).starts_with("token 4000000000: "));
}

#[test]
fn a_stop_text_is_not_shown() {
    let line = format!("-p ab -n 64 {LIVELY} --json");
    let whole = object(&on_tiny("run", &line))["text"].as_str().unwrap().to_owned();
    // Two characters from the middle; a NUL could not be passed as an argument.
    let middle: String = whole.chars().skip(20).filter(|c| *c != '\0').take(2).collect();
    let stop = if whole.contains(&middle) { middle } else { middle[..1].to_owned() };
    let mut args = on_tiny_args("run", &line);
    args.extend(["--stop".to_owned(), stop.clone()]);
    let object = object(&bitnet(args));
    assert_eq!(object["stop"], "stop", "{whole:?} stopped at {stop:?}");
    assert_eq!(object["text"], whole.split(&stop).next().unwrap());
}

#[test]
fn no_tokens_is_a_prefill_and_no_text() {
    let ran = on_tiny("run", "-p ab -n 0 --greedy -q");
    assert_eq!((ran.done(), &*ran.stderr), ("", ""));
}

#[test]
fn odd_prompts_are_prompts() {
    for input in [&b""[..], b"\n", b"a\0b", "\u{1F600}\u{301}".as_bytes(), b"<|eot_id|>"] {
        with_stdin(on_tiny_args("run", "-p - -n 2 --greedy --ignore-eos -q"), input).done();
    }
    let ran = with_stdin(on_tiny_args("run", "-p - -n 2"), b"abc\xff\n");
    assert_eq!(ran.refused(2), "stdin: expected UTF-8 text, found byte 0xff at offset 3");
}

#[test]
fn a_huge_prompt_is_refused_by_the_context() {
    let prompt = vec![b'a'; 10 << 20];
    let ran = with_stdin(on_tiny_args("run", "-p - -n 2"), &prompt);
    assert!(ran.refused(1).starts_with("context is full: "), "{ran:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command(on_tiny_args("run", "-p ab -n 2000 --greedy --ignore-eos")).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
    for line in ["--help", "run --help"] {
        let mut child = command(line.split_whitespace()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_closed_stderr_loses_words_not_the_run() {
    let mut child = command(on_tiny_args("run", "-p ab -n 2 --greedy --ignore-eos -v")).spawn().unwrap();
    drop(child.stderr.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.done().ends_with('\n'), "{ran:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = command(on_tiny_args("run", "-p ab -n 2 --greedy --ignore-eos")).stdout(full).output().unwrap();
    assert!(Ran::from(ran).refused(1).starts_with("cannot write to stdout: "));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_text_and_exits_130() {
    use std::io::Read;
    use std::process::Command;

    let args = on_tiny_args("run", "-p ab --greedy --ignore-eos -c 100000");
    let mut child = command(args).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0; 1];
    stdout.read_exact(&mut text).unwrap(); // it is decoding
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    stdout.read_to_end(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(text.last(), Some(&b'\n'));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_long_prompt_before_its_answer() {
    use std::io::{BufRead, BufReader};
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt");
    std::fs::write(&prompt, "ab ".repeat(30_000)).unwrap();
    let line = format!("-f {} --greedy --ignore-eos -n 1 -c 100000 -v", prompt.display());
    let mut child = command(on_tiny_args("run", &line)).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = stderr.find(|line| line.as_ref().unwrap().starts_with("threads: "));
    assert!(ready.is_some(), "it says what it runs on before it reads the prompt");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(130));
    assert!(ran.stdout.is_empty(), "a first token was chosen: {:?}", ran.stdout);
}
