//! Lines from a person at a terminal, or from a pipe.

use std::io::{self, BufRead, IsTerminal};

use bitnet_core::Error;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::exit::Failure;
use crate::interrupt;

/// More text than any context holds; a longer line is left out instead of filling the memory.
const MAX_BYTES: usize = 64 << 20;

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line, without its end.
    Line(String),
    /// A line that is no text; the sentence says why.
    Unfit(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// There will be no more.
    End,
}

/// Where lines come from.
pub(super) enum Input {
    /// A terminal on both ends, with editing and history.
    Terminal(Box<DefaultEditor>),
    /// Anything else.
    Plain,
}

impl Input {
    /// Edited lines if a person sees what is typed, plain ones otherwise.
    pub(super) fn new() -> Result<Self, Failure> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(Input::Plain);
        }
        let editor = DefaultEditor::new().map_err(|e| failed(io::Error::other(e)))?;
        Ok(Input::Terminal(Box::new(editor)))
    }

    /// Whether a person types the lines.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next line. Flush stdout first.
    pub(super) fn next(&mut self) -> Result<Heard, Failure> {
        match self {
            Input::Terminal(editor) => {
                interrupt::end_when_told();
                let heard = edited(editor);
                interrupt::forget();
                heard
            }
            Input::Plain => {
                interrupt::end_at_once();
                let heard = plain(&mut io::stdin().lock(), MAX_BYTES).map_err(failed);
                interrupt::forget();
                heard
            }
        }
    }
}

fn failed(source: io::Error) -> Failure {
    Failure::Engine(Error::Io { path: "stdin".into(), action: "read", source })
}

fn edited(editor: &mut DefaultEditor) -> Result<Heard, Failure> {
    match editor.readline("> ") {
        Ok(line) => {
            let _ = editor.add_history_entry(line.as_str()); // a line too many for it is no loss
            Ok(Heard::Line(line))
        }
        Err(ReadlineError::Interrupted) => Ok(Heard::Interrupted),
        Err(ReadlineError::Eof) => Ok(Heard::End),
        Err(ReadlineError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => {
            Ok(Heard::Unfit("expected UTF-8 text; the line is left out".into()))
        }
        Err(ReadlineError::Io(e)) => Err(failed(e)),
        Err(e) => Err(failed(io::Error::other(e))),
    }
}

/// Reads to the end of the line, keeping at most `max` bytes.
fn plain(from: &mut impl BufRead, max: usize) -> io::Result<Heard> {
    let (mut line, mut len, mut ended) = (Vec::new(), 0usize, false);
    while !ended {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if bytes.is_empty() {
            if len == 0 {
                return Ok(Heard::End);
            }
            break; // the last line need not be ended
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if line.len() + part.len() <= max {
            line.extend_from_slice(part);
        }
        let n_used = part.len() + usize::from(end.is_some());
        len = len.saturating_add(n_used);
        ended = end.is_some();
        from.consume(n_used);
    }
    if len - usize::from(ended) > line.len() {
        return Ok(Heard::Unfit(format!("expected at most {} MiB in a line; it is left out", max >> 20)));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(match String::from_utf8(line) {
        Ok(line) => Heard::Line(line),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            let byte = e.as_bytes()[at];
            Heard::Unfit(format!(
                "expected UTF-8 text, found byte {byte:#04x} at offset {at}; the line is left out"
            ))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line of `bytes`, `!` for those left out.
    fn lines(bytes: &[u8], max: usize) -> Vec<String> {
        let mut from = io::BufReader::with_capacity(3, bytes); // lines cross the ends of buffers
        let mut lines = Vec::new();
        loop {
            match plain(&mut from, max).unwrap() {
                Heard::Line(line) => lines.push(line),
                Heard::Unfit(_) => lines.push("!".into()),
                Heard::Interrupted => panic!("nobody pressed a key"),
                Heard::End => return lines,
            }
        }
    }

    #[test]
    fn lines_are_told_apart_and_the_last_one_need_not_end() {
        assert_eq!(lines(b"", 9), [""; 0]);
        assert_eq!(lines(b"\n\nab\r\ncdefg", 9), ["", "", "ab", "cdefg"]);
        assert_eq!(lines(b"a\0b\n", 9), ["a\0b"]);
    }

    #[test]
    fn a_line_that_is_no_text_or_too_long_leaves_the_others_alone() {
        assert_eq!(lines(b"a\n\xff\xfe\nb\n", 9), ["a", "!", "b"]);
        assert_eq!(lines(b"123456789\n1234567890\nb", 9), ["123456789", "!", "b"]);
        assert_eq!(lines(b"1234567890", 9), ["!"]);
    }
}
