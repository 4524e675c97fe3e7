//! Questions from a file: task, prompt and answer, with tabs between them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bitnet_core::Error;

use crate::exit::Failure;

/// More questions than anyone waits for; an endless pipe is refused here instead of filling the memory.
const MAX_BYTES: u64 = 256 << 20;

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Its place in the file, counted from 1.
    pub(super) line: usize,
    pub(super) task: String,
    pub(super) prompt: String,
    pub(super) answer: String,
}

/// The file of questions at `path`, `-` being stdin.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
    let mut bytes = Vec::new();
    let got = if path.as_os_str() == "-" {
        io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).map_err(io("open"))?.take(MAX_BYTES + 1).read_to_end(&mut bytes)
    };
    got.map_err(io("read"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refused(path, &format!("expected at most {} MiB", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Every question in `bytes`, which were read from `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Question>, Failure> {
    lines(bytes).map_err(|reason| refused(path, &reason))
}

fn refused(path: &Path, reason: &str) -> Failure {
    Failure::misuse(&format!("--data {}", path.display()), reason)
}

fn lines(bytes: &[u8]) -> Result<Vec<Question>, String> {
    let mut questions = Vec::new();
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let wrong = |reason: String| format!("line {}: {reason}", i + 1);
        let line = std::str::from_utf8(line).map_err(|_| wrong("expected UTF-8 text".into()))?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [task, prompt, answer] = *fields else {
            return Err(wrong(format!("expected task, prompt and answer, found {} fields", fields.len())));
        };
        let text = |field| unescape(field).map_err(wrong);
        questions.push(Question {
            line: i + 1,
            task: text(task)?,
            prompt: text(prompt)?,
            answer: text(answer)?,
        });
    }
    if questions.is_empty() { Err("expected at least one question".into()) } else { Ok(questions) }
}

/// A field as it was before tabs, newlines and backslashes were written as two characters.
fn unescape(field: &str) -> Result<String, String> {
    let (mut text, mut chars) = (String::new(), field.chars());
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('\\') => '\\',
                other => {
                    let found = other.map_or_else(String::new, |c| c.escape_debug().to_string());
                    return Err(format!("expected \\n, \\t or \\\\, found \\{found}"));
                }
            },
            c => c,
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(line: usize, task: &str, prompt: &str, answer: &str) -> Question {
        Question { line, task: task.into(), prompt: prompt.into(), answer: answer.into() }
    }

    #[test]
    fn fields_are_read_back_as_they_were() {
        let questions = lines(b"sum\t1+1=\t2\n\r\n a\\tb\t\\\\n\\n\t\r\nlast\t\tx").unwrap();
        assert_eq!(
            questions,
            [
                question(1, "sum", "1+1=", "2"),
                question(3, " a\tb", "\\n\n", ""),
                question(4, "last", "", "x")
            ]
        );
    }

    #[test]
    fn what_is_no_question_is_refused_with_its_line() {
        for (bytes, says) in [
            (&b"a\tb\tc\na\tb\n"[..], "line 2: expected task, prompt and answer, found 2 fields"),
            (b"a\tb\tc\td", "line 1: expected task, prompt and answer, found 4 fields"),
            (b"a\tb\t\\x", "line 1: expected \\n, \\t or \\\\, found \\x"),
            (b"a\tb\tc\\", "line 1: expected \\n, \\t or \\\\, found \\"),
            (b"\n\na\t\xff\tb", "line 3: expected UTF-8 text"),
            (b"\n", "expected at least one question"),
        ] {
            assert_eq!(lines(bytes).unwrap_err(), says);
        }
    }
}
