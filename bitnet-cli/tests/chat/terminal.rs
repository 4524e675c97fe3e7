//! A person at a terminal: types, reads, interrupts, leaves.

use serde_json::Value;

use crate::pty::Terminal;
use crate::tiny::{on_tiny, on_tiny_args};

/// As long a reply as the context allows; drawn so that the tiny model does not end it within the first thousand.
const ENDLESS: &str = "-c 200000 --temp 0.01 --seed 1";

fn chat(flags: &str) -> Terminal {
    let mut terminal = Terminal::start(on_tiny_args("chat", flags), &[]);
    terminal.wait_for("loading ");
    terminal.wait_for("/help lists the commands");
    terminal.wait_for("> ");
    terminal
}

#[test]
fn types_reads_the_answer_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let mut terminal = chat("--greedy -n 6");
    // A mistake, taken back; a word, and home to put another before it.
    terminal.keys("wirld\x7f\x7f\x7f\x7forld\x01hello \r");
    terminal.wait_for("hello world");
    terminal.wait_for("\n"); // the line is entered; now the reply, then the next prompt
    terminal.wait_for("> ");
    terminal.keys("/metrics\r");
    terminal.wait_for("all 1 replies");
    terminal.wait_for("> ");
    terminal.keys(&format!("/save {}\r", path.display()));
    terminal.wait_for("2 messages)");
    terminal.wait_for("> ");
    terminal.keys("/quit\r");
    assert_eq!(terminal.end(), Some(0));
    let saved: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "hello world");
    assert_eq!(saved["messages"][1]["role"], "assistant");
}

#[test]
fn ctrl_c_ends_the_reply_and_the_conversation_goes_on() {
    let mut terminal = chat(ENDLESS);
    for _ in 0..2 {
        terminal.keys("tell me more\r");
        terminal.wait_for("tell me more");
        terminal.wait_for("\n");
        std::thread::sleep(std::time::Duration::from_millis(300)); // somewhere in the middle of it
        terminal.keys("\x03");
        terminal.wait_for("(stopped)");
        terminal.wait_for("> ");
    }
    terminal.keys("/metrics\r");
    terminal.wait_for("all 2 replies");
    terminal.wait_for("> ");
    terminal.keys("/quit\r");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn ctrl_c_at_the_prompt_leaves_at_the_second_press() {
    let mut terminal = chat("--greedy -n 2");
    terminal.keys("never said\x03");
    terminal.wait_for("(Ctrl-C again");
    terminal.wait_for("> ");
    terminal.keys("/system\r"); // a line in between starts the count again
    terminal.wait_for("(no system prompt)");
    terminal.wait_for("> ");
    terminal.keys("\x03");
    terminal.wait_for("(Ctrl-C again");
    terminal.wait_for("> ");
    terminal.keys("\x03");
    assert_eq!(terminal.end(), Some(130));
}

#[test]
fn ctrl_d_leaves() {
    let mut terminal = chat("--greedy -n 2");
    terminal.keys("\x04");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn a_new_size_at_the_prompt_and_in_a_reply_changes_nothing() {
    let mut terminal = chat(ENDLESS);
    terminal.keys("half a ");
    terminal.wait_for("half a ");
    terminal.resize(20);
    terminal.keys("line that wraps now\r");
    terminal.wait_for("\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    terminal.resize(120);
    std::thread::sleep(std::time::Duration::from_millis(200));
    terminal.keys("\x03");
    terminal.wait_for("(stopped)");
    terminal.wait_for("> ");
    terminal.keys("/quit\r");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn a_pasted_text_of_several_lines_is_one_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let mut terminal = chat("--greedy -n 2");
    terminal.keys("\x1b[200~one\ntwo\x1b[201~\r");
    terminal.wait_for("two");
    terminal.wait_for("\n");
    terminal.wait_for("> ");
    terminal.keys(&format!("/save {}\r", path.display()));
    terminal.wait_for("2 messages)");
    terminal.wait_for("> "); // an end of input typed before the prompt would be the terminal's, not ours
    terminal.keys("\x04");
    assert_eq!(terminal.end(), Some(0));
    let saved: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "one\ntwo");
}

#[test]
fn nothing_is_coloured_with_or_without_no_color() {
    for env in [&[][..], &[("NO_COLOR", "1")]] {
        let mut terminal = Terminal::start(on_tiny_args("chat", "--greedy -n 4"), env);
        terminal.wait_for("> ");
        terminal.keys("/help\r");
        terminal.wait_for("//TEXT");
        terminal.wait_for("> ");
        let colours = terminal.seen.split("\x1b[").skip(1).filter(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
        });
        assert_eq!(colours.count(), 0, "{:?}", terminal.seen);
        terminal.keys("\x04");
        assert_eq!(terminal.end(), Some(0));
    }
}

#[test]
fn times_come_at_the_end_unless_quiet() {
    let leave = |flags: &str| {
        let mut terminal = Terminal::start(on_tiny_args("chat", flags), &[]);
        terminal.wait_for("> ");
        terminal.keys("ab\r");
        terminal.wait_for("\n");
        terminal.wait_for("> ");
        terminal.keys("/quit\r");
        let (code, seen) = terminal.rest();
        assert_eq!(code, Some(0), "{seen:?}");
        seen
    };
    let seen = leave("--greedy -n 4");
    let (_, last) = seen.rsplit_once("/quit").unwrap();
    let lines: Vec<&str> =
        last.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    assert_eq!(lines, ["load", "prompt eval", "eval"], "{seen:?}");
    assert!(last.contains("     3 tokens (") && last.contains(" tokens/s)"), "{seen:?}");
    let seen = leave("--greedy -n 4 -q");
    for word in ["loading", "/help", "eval", "tokens"] {
        assert!(!seen.contains(word), "{word}: {seen:?}");
    }
}

/// What a run shows at a terminal.
fn shown_by(verb: &str, flags: &str, env: &[(&str, &str)]) -> String {
    let (code, seen) = Terminal::start(on_tiny_args(verb, flags), env).rest();
    assert_eq!(code, Some(0), "{seen:?}");
    seen
}

#[test]
fn quiet_leaves_the_answer_alone_on_the_screen() {
    let flags = "-p ab -n 4 --greedy";
    let answer = on_tiny("run", &format!("{flags} -q")).done().replace('\n', "\r\n");
    assert_eq!(shown_by("run", &format!("{flags} -q"), &[]), answer);
    let spoken = shown_by("run", flags, &[]);
    assert!(spoken.contains("loading ") && spoken.contains("prompt eval:"), "{spoken:?}");
    for (verb, flags) in
        [("inspect", "--verify --layout-test"), ("doctor", "-t 1"), ("parity", "--record - -p ab -n 2")]
    {
        let mut args = on_tiny_args(verb, flags);
        if verb == "doctor" {
            args.drain(1..3); // it is about no model
        }
        let spoken = Terminal::start(&args, &[]).rest().1;
        args.push("-q".to_owned());
        let quiet = Terminal::start(&args, &[]).rest().1;
        assert!(spoken.contains("\x1b[K"), "{verb} shows what it does: {spoken:?}");
        assert!(!quiet.contains('\x1b') && quiet.lines().count() > 1, "{verb} -q: {quiet:?}");
    }
}

#[test]
fn a_terminal_that_cannot_erase_gets_no_progress() {
    for env in [[("TERM", "dumb")], [("TERM", "")]] {
        let seen = shown_by("run", "-p ab -n 4 --greedy", &env);
        assert!(!seen.contains('\x1b') && !seen.contains("loading") && seen.contains("eval:"), "{seen:?}");
    }
}

#[test]
fn a_terminal_without_editing_is_enough() {
    let mut terminal = Terminal::start(on_tiny_args("chat", "--greedy -n 2"), &[("TERM", "dumb")]);
    terminal.wait_for("> ");
    terminal.keys("/system\n");
    terminal.wait_for("(no system prompt)");
    terminal.keys("/quit\n");
    assert_eq!(terminal.end(), Some(0));
}
