//! The trace file: complete events as Chrome writes them in JSON, which Perfetto opens.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::lane::{self, Lane};
use super::packed::{Kept, Read};
use super::span::{self, Site};
use super::{clock, lane::MAX_CHUNKS};
use crate::error::{Error, Result};
use crate::gguf::{Target, replace_file};

/// How a trace begins.
const HEAD: &str = "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"dropped_spans\":\"";

/// Where the trace is to go, and whether a file there gives way; if that is not said, an earlier trace does.
static TARGET: Mutex<Option<(PathBuf, Option<bool>)>> = Mutex::new(None);

fn target() -> MutexGuard<'static, Option<(PathBuf, Option<bool>)>> {
    TARGET.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes a place for the trace. What can be known of it now is refused now.
pub(super) fn open(path: &Path, replace: Option<bool>) -> Result<()> {
    let mut target = target();
    let refused = |reason| Err(Error::Invalid { what: format!("trace file {}", path.display()), reason });
    if let Some((first, _)) = &*target {
        return refused(format!("spans are already recorded for {}", first.display()));
    }
    if path.symlink_metadata().is_ok() && !replace.unwrap_or_else(|| gives_way(path)) {
        let what = if replace.is_none() { "a file that is no trace" } else { "the file" };
        return refused(format!("{what} exists, and is left alone"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |source| Error::Io { path: path.to_owned(), action: "create", source };
    folder.metadata().map_err(io)?;
    *target = Some((path.to_owned(), replace));
    Ok(())
}

/// Whether the file at `path` is empty or an earlier trace. Neither a pipe nor a device is.
fn gives_way(path: &Path) -> bool {
    let mut head = Vec::new();
    let mut read = || File::open(path)?.take(HEAD.len() as u64).read_to_end(&mut head);
    path.is_file() && read().is_ok() && (head.is_empty() || head == HEAD.as_bytes())
}

/// Writes what all threads recorded, and says so on stderr.
pub(super) fn close() -> Result<()> {
    let Some((path, replace)) = target().take() else { return Ok(()) };
    let (dropped, mut n) = (lane::dropped(), 0);
    let replace = replace.unwrap_or_else(|| gives_way(&path));
    replace_file(Target { path: &path, replace }, |out| {
        let written = write(out, &lane::lanes(), &span::sites(), clock::ticks() - clock::zero(), dropped);
        n = written.map_err(|source| Error::Io { path: path.clone(), action: "write", source })?;
        Ok(())
    })?;
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
    write!(out, "{HEAD}{dropped}\"}},\"traceEvents\":[")?;
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
