//! The trace file: Chrome's JSON array of complete events, which Perfetto opens.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::lane::{self, Lane};
use super::packed::{Kept, Read};
use super::span::{self, Site};
use super::{clock, lane::MAX_CHUNKS};
use crate::error::{Error, Result};

/// The file being recorded for.
static TARGET: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);

fn target() -> MutexGuard<'static, Option<(PathBuf, File)>> {
    TARGET.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Creates the file.
pub(super) fn open(path: &Path) -> Result<()> {
    let mut target = target();
    if let Some((first, _)) = &*target {
        let reason = format!("spans are already recorded for {}", first.display());
        return Err(Error::Invalid { what: format!("trace file {}", path.display()), reason });
    }
    let io = |source| Error::Io { path: path.to_owned(), action: "create", source };
    *target = Some((path.to_owned(), File::create(path).map_err(io)?));
    Ok(())
}

/// Writes what all threads recorded, and says so on stderr.
pub(super) fn close() -> Result<()> {
    let Some((path, file)) = target().take() else { return Ok(()) };
    let dropped = lane::dropped();
    let mut out = BufWriter::new(file);
    let written = write(&mut out, &lane::lanes(), &span::sites(), clock::ticks() - clock::zero(), dropped);
    let io = |source| Error::Io { path: path.clone(), action: "write", source };
    let n = written.and_then(|n| out.flush().map(|()| n)).map_err(io)?;
    let full = match dropped {
        0 => String::new(),
        _ => format!(", {dropped} dropped: a trace holds at most {} MiB", MAX_CHUNKS / 16),
    };
    let _ =
        io::stderr().lock().write_all(format!("bitnet: {}: {n} spans{full}\n", path.display()).as_bytes());
    Ok(())
}

/// Writes the document and returns its number of spans. A span still open ends `now`, in ticks since the
/// clock was calibrated.
fn write(
    out: &mut impl Write,
    lanes: &[Arc<Lane>],
    sites: &[&Site],
    now: u64,
    dropped: u64,
) -> io::Result<u64> {
    let mut n = 0;
    write!(
        out,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"dropped_spans\":\"{dropped}\"}},\"traceEvents\":["
    )?;
    write!(
        out,
        "\n{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"tid\":0,\"args\":{{\"name\":\"bitnet\"}}}}"
    )?;
    for lane in lanes {
        let (tid, thread) = (lane.number, quoted(&lane.thread));
        write!(
            out,
            ",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{tid},\"args\":{{\"name\":{thread}}}}}"
        )?;
        lane.each_span(|span| {
            if let Some(site) = sites.get(span.site) {
                n += 1;
                event(out, tid, site, &span, now)?;
            }
            io::Result::Ok(())
        })?;
    }
    writeln!(out, "\n]}}")?;
    Ok(n)
}

fn event(out: &mut impl Write, tid: usize, site: &Site, span: &Kept, now: u64) -> io::Result<()> {
    let (name, module) = (quoted(site.name), quoted(site.module));
    let ts = micros(span.start);
    let dur = micros(span.ticks.unwrap_or(now.saturating_sub(span.start)));
    write!(
        out,
        ",\n{{\"name\":{name},\"cat\":{module},\"ph\":\"X\",\"pid\":1,\"tid\":{tid},\"ts\":{ts},\"dur\":{dur}"
    )?;
    if !span.fields.is_empty() {
        let mut before = ",\"args\":{";
        for (key, value) in site.fields.iter().zip(&span.fields) {
            write!(out, "{before}{}:", quoted(key))?;
            match value {
                Read::Unsigned(n) => write!(out, "{n}")?,
                Read::Signed(n) => write!(out, "{n}")?,
                Read::Float(x) if x.is_finite() => write!(out, "{x:?}")?,
                Read::Float(x) => write!(out, "\"{x}\"")?,
                Read::Text(text) => write!(out, "{}", quoted(text))?,
            }
            before = ",";
        }
        out.write_all(b"}")?;
    }
    out.write_all(b"}")
}

/// Microseconds with three decimals: nanoseconds, in Chrome's unit.
fn micros(ticks: u64) -> String {
    let ns = clock::length(ticks).as_nanos();
    format!("{}.{:03}", ns / 1000, ns % 1000)
}

fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text) // displayed as JSON
}
