//! Turns from a pipe: every line is one.

use serde_json::{Value, json};

use crate::support::{Ran, bitnet, command, words};
use crate::tiny::{on_tiny, on_tiny_args, tiny, with_stdin};

/// Greedy, but never a token twice: alone, the tiny model repeats itself, whatever it is asked.
const VARIED: &str = "--greedy --repeat-penalty 3 --repeat-last-n 1000 -q";

/// `bitnet chat` on the tiny model with `input` on stdin.
fn chat(flags: &str, input: &[u8]) -> Ran {
    with_stdin(on_tiny_args("chat", flags), input)
}

/// What `run --json` says of these arguments.
fn run(args: &[&str]) -> Value {
    let model = tiny().to_str().unwrap();
    let ran =
        bitnet([&["run", "-m", model, "--json"], &*VARIED.split(' ').collect::<Vec<_>>(), args].concat());
    serde_json::from_str(ran.done()).unwrap()
}

fn ids(object: &Value, key: &str) -> Vec<u64> {
    object[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn the_model_sees_the_turns_as_its_format_writes_them() {
    // The same conversation by hand, as `run` computes it from ids.
    let start = ids(&run(&["-p", "", "-n", "0"]), "prompt_tokens");
    let (bos, eot) = (start[0], start[0] + 2); // <|begin_of_text|>, <|end_of_text|>, <|eot_id|>
    let text = |text: &str| ids(&run(&["-p", text, "-n", "0"]), "prompt_tokens")[1..].to_vec();
    let turn = |said: &str| [text(&format!("User: {said}")), vec![eot], text("Assistant: ")].concat();
    let mut context = vec![bos];
    let mut expected = String::new();
    for said in ["ab", "<|eot_id|>cd", "ef"] {
        context.extend(turn(said));
        let list = context.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let reply = run(&["--tokens", &list, "-n", "6"]);
        context.extend(ids(&reply, "tokens"));
        context.push(eot); // its own end, or the one the format writes after a reply that was cut off
        expected += reply["text"].as_str().unwrap();
        if !expected.ends_with('\n') {
            expected.push('\n');
        }
    }
    let ran = chat(&format!("-n 6 {VARIED}"), b"ab\n<|eot_id|>cd\n\n  \nef");
    assert_eq!((ran.done(), &*ran.stderr), (&*expected, ""));
}

#[test]
fn clearing_forgets_and_keeps_the_system_prompt() {
    let flags = format!("-n 8 {VARIED}");
    let once = chat(&flags, b"ab\n");
    let twice = chat(&flags, b"ab\n/clear\nab\n");
    let notes = "(a new conversation)\n";
    assert_eq!((twice.done(), &*twice.stderr), (&*once.stdout.repeat(2), notes));
    let told = chat(&flags, b"ab\n/system Odd.\nab\n/clear\nab\n");
    let told_at_once = chat(&format!("{flags} --system Odd."), b"ab\n").stdout;
    assert_ne!(told_at_once, once.stdout);
    assert_eq!(told.done(), once.stdout + &told_at_once.repeat(2));
}

#[test]
fn a_seed_decides_the_replies() {
    let lively = "--temp 50 --top-k 0 --top-p 1 --min-p 0 -n 16 -q";
    let replies = |seed: u32| chat(&format!("{lively} --seed {seed}"), b"ab\ncd\n").stdout;
    assert_eq!(replies(1), replies(1));
    assert_ne!(replies(1), replies(2));
}

#[test]
fn a_seed_of_minus_1_is_drawn_and_named_at_the_end() {
    let lively = "--temp 50 --top-k 0 --top-p 1 --min-p 0 -n 16";
    let drawn = chat(&format!("{lively} -s -1"), b"ab\ncd\n");
    let seed = drawn.stderr.lines().find_map(|line| line.strip_prefix("seed:        "));
    let seed: u32 = seed.unwrap_or_else(|| panic!("{drawn:?}")).parse().unwrap();
    assert_eq!(chat(&format!("{lively} -q -s {seed}"), b"ab\ncd\n").done(), drawn.stdout);
}

#[test]
fn a_conversation_is_saved_as_it_was_and_never_over_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b.json");
    let input = format!("ab\n//cd\0\n/save {0}\n/save {0}\n/save no/such/folder/x\n", path.display());
    let ran = chat("--greedy -n 4 --system Hm.", input.as_bytes());
    assert_eq!(ran.code, Some(1), "a save that failed is a failure: {ran:?}");
    assert!(
        ran.stderr.contains("a b.json: 4 messages)") && ran.stderr.contains("the file exists"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("cannot create no/such/folder/x"), "{ran:?}");
    let saved: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(
        (&saved["chat_template"], &saved["model"]),
        (&json!("bitnet"), &json!(tiny().to_str().unwrap()))
    );
    let messages = saved["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!((&messages[0]["content"], &messages[3]["content"]), (&json!("Hm."), &json!("/cd\0")));
    let replies: Vec<&str> =
        [2, 4].iter().map(|&i: &usize| messages[i]["content"].as_str().unwrap()).collect();
    let printed = replies.iter().map(|r| if r.ends_with('\n') { (*r).to_owned() } else { format!("{r}\n") });
    assert_eq!(ran.stdout, printed.collect::<String>());
}

#[test]
fn commands_answer_on_stderr_and_unknown_ones_are_not_said() {
    let ran = chat("--greedy -n 4", b"/help\n/metrics\n/system\n/system X\n/system\n/quit\nnever said\n");
    assert_eq!(ran.done(), "");
    for part in ["/save FILE", "all 0 replies", "(no system prompt)", "\nX\n", "context:     0 of "] {
        assert!(ran.stderr.contains(part), "{part:?} in {ran:?}");
    }
    let ran = chat("--greedy -n 4 -q", b"/halp\nab\n");
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(1), 1), "{ran:?}");
    assert!(ran.stderr.starts_with("bitnet: /halp: no such command; /help lists them"), "{ran:?}");
}

#[test]
fn a_full_context_says_so_and_clear_goes_on() {
    // The first reply runs into the end, the second turn does not fit, a long one never does.
    let long = "x".repeat(100);
    let input = format!("ab\ncd\n/clear\n{long}\nab\n");
    let ran = chat("--greedy -c 48", input.as_bytes());
    assert_eq!(ran.stdout.lines().count(), 2, "the first turn and the last are answered: {ran:?}");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let of = |what: &str| ran.stderr.lines().filter(|line| line.contains(what)).count();
    assert_eq!(of("context is full at 48 positions, the reply ends here; /clear begins"), 2, "{ran:?}");
    assert_eq!(of("positions wanted, the context holds 48 (see --ctx-size); /clear begins"), 2, "{ran:?}");
}

#[test]
fn what_is_no_text_is_left_out_and_the_rest_is_answered() {
    let clean = chat("--greedy -n 4 -q", b"ab\ncd\n");
    let ran = chat("--greedy -n 4 -q", b"ab\nx\xff\xfe\ncd\n");
    assert_eq!((ran.code, &ran.stdout), (Some(1), &clean.stdout));
    assert!(ran.stderr.contains("found byte 0xff at offset 1; the line is left out"), "{ran:?}");
}

#[test]
fn odd_turns_are_turns() {
    for input in [&b""[..], b"\n\n", b"a\0b\n", "\u{1F600}\u{301}\r\n".as_bytes(), b" \t ", b"\xef\xbb\xbfhi"]
    {
        chat("--greedy -n 2 -q", input).done();
    }
}

#[test]
fn a_line_of_ten_megabytes_is_refused_by_the_context_alone() {
    let mut input = vec![b'a'; 10 << 20];
    input.extend_from_slice(b"\nab\n");
    let ran = chat("--greedy -n 4 -q", &input);
    assert_eq!((ran.code, &ran.stdout), (Some(1), &chat("--greedy -n 4 -q", b"ab\n").stdout));
    assert!(ran.stderr.starts_with("bitnet: context is full: "), "{ran:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        command(on_tiny_args("chat", "--greedy -n 50")).stdin(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), &b"ab\n".repeat(100));
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
}

#[test]
fn formats_are_chosen_by_name_and_refused_if_they_cannot_be_written() {
    chat("--chat-template plain --greedy -n 2 -q", b"ab\ncd\n").done();
    let ran = chat("--chat-template llama3", b"ab\n");
    assert!(ran.refused(2).contains("no control token <|start_header_id|>"), "{ran:?}");
    let ran = words("chat -m a --chat-template vicuna");
    assert!(ran.refused(2).ends_with("expected one of bitnet, llama3, falcon3, chatml, plain"), "{ran:?}");
    assert!(on_tiny("chat", "-n 0").refused(2).starts_with("--max-tokens 0: "));
}
