//! Rows as text: Markdown for people, JSON, JSON lines and CSV for programs.

use std::fmt::Write;

use serde_json::Value;

use super::row::{Row, Subject};
use crate::args::Format;
use crate::output::escaped;

/// All of `rows` in `format`.
pub(super) fn print(format: Format, rows: &[Row], subject: &Subject) -> String {
    match format {
        Format::Markdown => markdown(rows, subject),
        Format::Json => format!("{:#}\n", Value::from_iter(rows.iter().map(|row| row.json(subject)))),
        Format::JsonLines => rows.iter().map(|row| format!("{}\n", row.json(subject))).collect(),
        Format::Csv => csv(rows, subject),
    }
}

fn markdown(rows: &[Row], subject: &Subject) -> String {
    let head =
        ["model", "size", "isa", "threads", "test", "tok/s", "median", "GB/s", "GMAC/s", "% of ceiling"]
            .map(str::to_owned);
    let number = |value: Option<f64>, digits| value.map_or_else(String::new, |v| format!("{v:.digits$}"));
    let cells = rows.iter().map(|row| {
        let stats = row.stats();
        [
            escaped(&subject.model).replace('|', "\\|"),
            format!("{:.2} MiB", subject.model_bytes as f64 / f64::from(1 << 20)),
            subject.isa.clone(),
            row.n_threads.to_string(),
            row.name(),
            format!("{:.2} ± {:.2}", stats.mean, stats.stddev),
            format!("{:.2}", stats.median),
            number(row.gb_per_s(), 2),
            number(row.gmac_per_s(), 0),
            number(subject.ceilings.percent(row), 1),
        ]
    });
    table(head, cells.collect())
}

/// A Markdown table whose source is aligned too: numbers to the right, words to the left.
fn table<const N: usize>(head: [String; N], rows: Vec<[String; N]>) -> String {
    let lines: Vec<[String; N]> = [head].into_iter().chain(rows).collect();
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3);
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                0 | 2 | 4 => write!(text, "| {cell:width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text += "|\n";
        if i == 0 {
            for column in 0..N {
                let dashes = "-".repeat(width(column));
                let _ = match column {
                    0 | 2 | 4 => write!(text, "| {dashes} "),
                    _ => write!(text, "| {}: ", &dashes[1..]),
                };
            }
            text += "|\n";
        }
    }
    text
}

/// Every key but the sample lists, every value quoted: commas in a file name stay in it.
fn csv(rows: &[Row], subject: &Subject) -> String {
    let objects = rows.iter().map(|row| match row.json(subject) {
        Value::Object(object) => object,
        other => unreachable!("a row is an object, not {other}"),
    });
    let mut text = String::new();
    for object in objects {
        let scalars = || object.iter().filter(|(_, value)| !value.is_array());
        if text.is_empty() {
            text += &line(scalars().map(|(key, _)| key.clone()));
        }
        text += &line(scalars().map(|(_, value)| match value {
            Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            Value::Null => String::new(),
            number => format!("\"{number}\""),
        }));
    }
    text
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::example;
    use super::*;

    #[test]
    fn markdown_is_aligned_and_has_one_line_per_row() {
        let (rows, subject) = example();
        let text = print(Format::Markdown, &rows, &subject);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[3].contains("| tg2 ") && lines[3].contains("233.33 ± 152.75"), "{text}");
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }

    #[test]
    fn json_and_json_lines_read_back() {
        let (rows, subject) = example();
        let array: Value = serde_json::from_str(&print(Format::Json, &rows, &subject)).unwrap();
        let text = print(Format::JsonLines, &rows, &subject);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(array, Value::Array(lines));
        assert_eq!(array[0]["test"], "pp8");
    }

    #[test]
    fn csv_quotes_what_would_break_it() {
        let (rows, subject) = example();
        let text = print(Format::Csv, &rows, &subject);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("\"a,\"\"b\"\".gguf\""), "{text}");
        assert!(!lines[0].contains("samples"), "{text}");
    }
}
