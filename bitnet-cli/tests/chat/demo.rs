//! The demo model at a terminal: a person who gets answers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::pty::Terminal;

fn chat(flags: &str) -> Terminal {
    let mut terminal = Terminal::start(["chat"].into_iter().chain(flags.split_whitespace()), &[]);
    terminal.wait_for("/help lists the commands");
    terminal.wait_for("> ");
    terminal
}

#[test]
fn a_question_is_typed_and_answered() {
    let mut terminal = chat("");
    terminal.keys("What is 17 plus 25?\r");
    terminal.wait_for("42\r\n");
    terminal.wait_for("> ");
    terminal.keys("/quit\r");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn ctrl_c_while_a_long_turn_is_read_takes_it_back() {
    let mut terminal = chat("-c 200000");
    terminal.keys(&format!("\x1b[200~{}\x1b[201~\r", "x".repeat(150_000)));
    terminal.wait_for("\x1b[?2004l"); // the line is entered, and Ctrl-C a signal again
    std::thread::sleep(Duration::from_millis(300)); // somewhere in it: the whole takes minutes
    terminal.keys("\x03");
    terminal.wait_for("(stopped)");
    terminal.wait_for("> ");
    terminal.keys("2+2=\r");
    terminal.wait_for("4\r\n");
    terminal.wait_for("> ");
    terminal.keys("/metrics\r");
    terminal.wait_for("all 1 replies");
    terminal.wait_for("> ");
    terminal.keys("/quit\r");
    assert_eq!(terminal.end(), Some(0));
}

/// The README's conversation, typed at a terminal: the command, the greeting and each reply are as it shows them.
#[test]
fn the_conversation_in_the_readme_is_what_a_terminal_shows() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, rest) = readme.split_once("The model also").expect("the README introduces a conversation");
    let (_, rest) = rest.split_once("```console\n").expect("the conversation is in a console block");
    let mut shown = rest.lines().take_while(|line| *line != "```");
    let command = shown.next().expect("the conversation begins with a command");
    let args = command.strip_prefix("$ cargo run --release -- ").expect("the command runs this binary");
    let shown: Vec<&str> = shown.collect();
    assert!(shown.len() > 8 && !shown[0].starts_with("> "), "a greeting, questions and replies: {shown:?}");

    let mut terminal = Terminal::start(args.split_whitespace(), &[]);
    for typed in shown.iter().filter_map(|line| line.strip_prefix("> ")) {
        terminal.wait_for("> ");
        terminal.keys(&format!("{typed}\r"));
        terminal.wait_for("\x1b[?2004l"); // entered: a prompt that comes now is the next one
    }
    let (code, seen) = terminal.rest();
    assert_eq!(code, Some(0), "{seen:?}");
    let seen = on_screen(&seen);
    let (conversation, rest) = seen.split_at_checked(shown.len()).expect("the terminal shows as much");
    assert_eq!(conversation, shown);
    let is_time =
        |line: &String| ["load:", "prompt eval:", "eval:"].iter().any(|name| line.starts_with(name));
    assert!(rest.iter().all(is_time), "{rest:?}");
}

/// The lines that remain on the screen, as far as an editor of one line moves about and erases.
fn on_screen(seen: &str) -> Vec<String> {
    let (mut lines, mut line, mut column) = (Vec::new(), Vec::new(), 0);
    let mut rest = seen.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' => lines.push(std::mem::take(&mut line).into_iter().collect()),
            '\r' => column = 0,
            '\x1b' => {
                let mut count = String::new();
                let letter = rest.by_ref().skip(1).find(|c| {
                    let ends = c.is_ascii_alphabetic();
                    count.extend((!ends).then_some(*c));
                    ends
                });
                match letter {
                    Some('C') => column += count.parse().unwrap_or(1),
                    Some('K' | 'J') => line.truncate(column),
                    _ => {} // modes of the keyboard
                }
            }
            c => {
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    lines
}
