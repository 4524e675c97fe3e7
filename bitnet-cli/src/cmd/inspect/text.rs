//! The answer for people.

use std::fmt::Write;

use super::show::{bytes, escaped, line, type_name};
use super::{Needs, Report, Total};
use crate::output::cell;

/// The whole answer, the same every time.
pub(super) fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    file(&mut out, report);
    metadata(&mut out, report);
    tensors(&mut out, report);
    totals(&mut out, report);
    if let Some(verified) = &report.verified {
        verified.text(&mut out);
    }
    if let Some(test) = &report.layout {
        test.text(&mut out);
    }
    out
}

fn file(out: &mut String, report: &Report<'_>) {
    for shard in report.gguf.shards() {
        let _ = writeln!(
            out,
            "{}: GGUF v{}, {}, data at {}, alignment {}",
            escaped(shard.path.to_string_lossy().as_bytes()),
            shard.version,
            bytes(shard.file_len),
            shard.data_offset,
            shard.alignment,
        );
    }
}

fn metadata(out: &mut String, report: &Report<'_>) {
    let metadata = report.gguf.metadata();
    let rows: Vec<[String; 3]> = metadata
        .iter()
        .map(|(key, value)| [escaped(key.as_bytes()), type_name(&value), line(&value)])
        .collect();
    let _ = writeln!(out, "\nmetadata: {}", count(rows.len() as u64, "key"));
    columns(out, rows, "<<<");
}

fn tensors(out: &mut String, report: &Report<'_>) {
    let rows: Vec<[String; 5]> = report
        .tensors
        .iter()
        .map(|line| {
            let info = line.info;
            [
                escaped(info.name.as_bytes()),
                info.ty.to_string(),
                format!("{:?}", info.shape),
                info.n_bytes.to_string(),
                line.plan
                    .as_ref()
                    .map_or_else(String::new, |plan| format!("{} {}", plan.format, plan.kernel)),
            ]
        })
        .collect();
    let _ = writeln!(out, "\n{}: type, shape, bytes, kernel on this CPU", count(rows.len() as u64, "tensor"));
    columns(out, rows, "<<<><");
}

fn totals(out: &mut String, report: &Report<'_>) {
    let row = |name: &str, total: &Total| {
        [name.to_owned(), count(total.tensors, "tensor"), count(total.weights, "weight"), bytes(total.bytes)]
    };
    let mut rows: Vec<[String; 4]> = report.totals.iter().map(|(name, total)| row(name, total)).collect();
    rows.push(row("all", &report.all));
    let _ = writeln!(out, "\ntotals:");
    columns(out, rows, "<>>>");
    let _ = writeln!(out, "\nread per generated token: {}", bytes(report.bytes_per_token));
    let _ = match &report.needs {
        Ok(Needs { n_ctx, kv_cache_bytes: Some(cache) }) => {
            let cache = *cache as u64;
            let sum = bytes(report.all.bytes.saturating_add(cache));
            let (weights, cache) = (bytes(report.all.bytes), bytes(cache));
            writeln!(out, "memory needed: {sum} (weights {weights}, cache of {n_ctx} positions {cache})")
        }
        Ok(Needs { n_ctx, .. }) => {
            writeln!(out, "memory needed: a cache of {n_ctx} positions is more than this machine can address")
        }
        Err(e) => writeln!(out, "this engine cannot run it: {}", escaped(e.to_string().as_bytes())),
    };
}

/// Rows in columns as wide as their widest cell; `<` and `>` in `align` say to which side. A cell too long
/// for a line is cut, but not in a last column of the left kind, which is not padded.
pub(super) fn columns<const N: usize>(out: &mut String, mut rows: Vec<[String; N]>, align: &str) {
    let padded = N - usize::from(align.ends_with('<'));
    let mut widths = [0; N];
    for row in &mut rows {
        for (width, text) in widths.iter_mut().zip(row).take(padded) {
            *text = cell(std::mem::take(text));
            *width = (*width).max(text.chars().count());
        }
    }
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), side) in row.iter().zip(widths).zip(align.chars()) {
            let _ =
                if side == '<' { write!(line, "  {cell:width$}") } else { write!(line, "  {cell:>width$}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// `1 tensor`, `2 tensors`.
pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
