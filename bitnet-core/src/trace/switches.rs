//! What is on. One word, read by every annotation and written only at start and at the end.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{FILE, PARITY, QUANT, TIMING, chrome, clock, environment, lane};
use crate::error::{Error, Result};
use crate::gguf::Target;

/// The bits of [`ON`].
pub(super) const PARITY_BIT: u8 = 1;
pub(super) const QUANT_BIT: u8 = 2;
pub(super) const TIMING_BIT: u8 = 4;
/// Spans are kept for a trace file.
pub(super) const FILE_BIT: u8 = 8;
/// Spans are counted for a profile.
pub(super) const PROFILE_BIT: u8 = 16;

/// Everything off until [`init`] has read the environment.
static ON: AtomicU8 = AtomicU8::new(0);

#[inline]
pub(super) fn on() -> u8 {
    ON.load(Ordering::Relaxed)
}

/// Whether parity lines are wanted.
#[inline]
#[must_use]
pub fn parity_on() -> bool {
    on() & PARITY_BIT != 0
}

/// Whether dispatch lines are wanted.
#[inline]
#[must_use]
pub fn quant_on() -> bool {
    on() & QUANT_BIT != 0
}

/// Whether the four phases are timed.
#[inline]
#[must_use]
pub fn phase_on() -> bool {
    on() & (TIMING_BIT | FILE_BIT | PROFILE_BIT) != 0
}

/// Whether layers, products and kernels are recorded.
#[inline]
#[must_use]
pub fn detail_on() -> bool {
    on() & (FILE_BIT | PROFILE_BIT) != 0
}

/// Reads the environment. To be called once, before the first model is loaded; later calls change nothing.
///
/// # Errors
/// If a switch has a value that is not accepted, or the trace file cannot be created, also since there is a file that is
/// no trace.
pub fn init() -> Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if *done {
        return Ok(());
    }
    let bits = parse(environment)?;
    if let Some(path) = environment(FILE).filter(|path| !path.is_empty()) {
        record(Path::new(&path), None)?;
    }
    turn_on(bits);
    *done = true;
    Ok(())
}

/// The bits of the three switches.
fn parse(read: impl Fn(&str) -> Option<OsString>) -> Result<u8> {
    let mut bits = 0;
    for (name, bit) in [(PARITY, PARITY_BIT), (QUANT, QUANT_BIT), (TIMING, TIMING_BIT)] {
        let Some(value) = read(name) else { continue };
        if value == "1" {
            bits |= bit;
        } else if !value.is_empty() && value != "0" {
            return Err(Error::Invalid {
                what: format!("{name}={}", value.to_string_lossy().escape_debug()),
                reason: "expected 1 (on), 0 or nothing (off)".to_owned(),
            });
        }
    }
    Ok(bits)
}

fn turn_on(bits: u8) {
    if bits & (TIMING_BIT | FILE_BIT | PROFILE_BIT) != 0 {
        clock::calibrate();
    }
    ON.fetch_or(bits, Ordering::Relaxed);
}

/// Starts counting spans for [`report`](super::report()).
///
/// # Errors
/// Never in this build; without `instrument`, always.
pub fn profile() -> Result<()> {
    turn_on(PROFILE_BIT);
    Ok(())
}

/// Records every span for a Chrome trace file, as `BITNET_TRACE_FILE` does; but that replaces an earlier trace, and
/// nothing else. [`finish`] writes the file, whole or not at all.
///
/// # Errors
/// If the file's place is taken, its folder does not exist, or spans are already recorded for another.
pub fn record_to<'a>(target: impl Into<Target<'a>>) -> Result<()> {
    let Target { path, replace } = target.into();
    record(path, Some(replace))
}

/// The same; what `replace` does not say, the file at `path` does.
fn record(path: &Path, replace: Option<bool>) -> Result<()> {
    clock::calibrate();
    chrome::open(path, replace)?;
    lane::prepare();
    turn_on(FILE_BIT);
    Ok(())
}

/// Ends recording and writes the trace file, if there is one, of every thread's spans so far.
///
/// # Errors
/// If the file cannot be written.
pub fn finish() -> Result<()> {
    ON.fetch_and(!FILE_BIT, Ordering::Relaxed);
    chrome::close()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(set: &[(&str, &str)]) -> Result<u8> {
        parse(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn one_is_on_and_zero_empty_or_unset_is_off() {
        assert_eq!(bits(&[]).unwrap(), 0);
        assert_eq!(bits(&[("BITNET_PARITY", "0"), ("BITNET_TRACE_QUANT", "")]).unwrap(), 0);
        assert_eq!(
            bits(&[("BITNET_PARITY", "1"), ("BITNET_TRACE_TIMING", "1")]).unwrap(),
            PARITY_BIT | TIMING_BIT
        );
        assert_eq!(bits(&[("BITNET_TRACE_QUANT", "1")]).unwrap(), QUANT_BIT);
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for value in ["yes", "true", "2", "01", " 1", "on", "-"] {
            let error = bits(&[("BITNET_TRACE_QUANT", value)]).unwrap_err();
            let expected = format!("BITNET_TRACE_QUANT={value}: expected 1 (on), 0 or nothing (off)");
            assert_eq!(error.to_string(), expected);
            assert!(error.is_misuse());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_text_is_refused_too() {
        use std::os::unix::ffi::OsStringExt as _;
        let error = parse(|_| Some(OsString::from_vec(vec![0xff, b'\n']))).unwrap_err().to_string();
        assert_eq!(error, "BITNET_PARITY=\u{fffd}\\n: expected 1 (on), 0 or nothing (off)");
    }
}
