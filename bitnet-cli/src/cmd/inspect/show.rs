//! Values of a file as harmless text: nothing in a file may move the cursor of a terminal.

use std::fmt::Write;

use bitnet_core::gguf::{Array, Value};

/// Elements of an array that are shown; a vocabulary has a hundred thousand.
pub(super) const SHOWN: usize = 8;
/// Characters of a string that are shown to people.
const WIDTH: usize = 80;

/// `bytes` as text. What is no UTF-8 becomes `\xff`; control and invisible characters become `\u{1b}`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => text.push(c), // quotes harm nobody
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A value in one line for people: long strings and arrays say how long they are.
pub(super) fn line(value: &Value<'_>) -> String {
    match value {
        Value::Str(bytes) => short(bytes),
        Value::Array(array) => {
            let shown: Vec<String> = first(array).map(|item| line(&item)).collect();
            let more = if array.len() > SHOWN { ", ..." } else { "" };
            format!("[{}{more}]", shown.join(", "))
        }
        other => other.to_string(),
    }
}

/// Its type for people: `u32`, `string`, `128256 string`.
pub(super) fn type_name(value: &Value<'_>) -> String {
    match value {
        Value::Array(array) => format!("{} {}", array.len(), array.elem_type().name()),
        other => other.ty().name().to_owned(),
    }
}

/// The elements of an array that are shown.
pub(super) fn first<'a>(array: &Array<'a>) -> impl Iterator<Item = Value<'a>> {
    let strings = array.strings().into_iter().flatten().map(Value::Str);
    // Exactly one of the two has elements.
    strings.chain(array.iter().filter(|value| !matches!(value, Value::Str(_)))).take(SHOWN)
}

/// A string in quotes, cut where it is too long for a line.
fn short(bytes: &[u8]) -> String {
    // A character has at most four bytes: what lies beyond cannot be shown, and need not be escaped.
    let text = escaped(&bytes[..bytes.len().min(4 * WIDTH)]);
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("\"{}\"... ({} bytes)", &text[..end], bytes.len()),
        None => format!("\"{text}\""),
    }
}

/// Bytes for people, in the units of disks: 1 MB is a million.
pub(super) fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_string_reaches_the_terminal_raw() {
        assert_eq!(escaped(b"a\x1b[2Jb\n\xff\xc3"), "a\\u{1b}[2Jb\\n\\xff\\xc3");
        assert_eq!(escaped("caf\u{e9} \u{202e}'\"".as_bytes()), "café \\u{202e}'\"");
        assert_eq!(escaped(b"back\\slash"), "back\\\\slash");
    }

    #[test]
    fn long_strings_say_how_long_they_are() {
        assert_eq!(short(b"short"), "\"short\"");
        let long = short(&[b'x'; 1000]);
        assert_eq!(long, format!("\"{}\"... (1000 bytes)", "x".repeat(WIDTH)));
        assert!(short("é".repeat(200).as_bytes()).ends_with("(400 bytes)"));
        assert_eq!(short("é".repeat(WIDTH).as_bytes()).chars().count(), WIDTH + 2);
    }

    #[test]
    fn sizes_are_rounded_for_people() {
        assert_eq!(
            [0, 999, 1500, 2_000_000, 1_187_801_280].map(bytes),
            ["0 B", "999 B", "1.5 kB", "2.0 MB", "1.19 GB"]
        );
    }
}
