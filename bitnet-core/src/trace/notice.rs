//! All there is of tracing in a plain build: an honest word to someone who sets a switch.

use std::ffi::OsString;
use std::io::Write as _;
use std::sync::Once;

use super::{FILE, PARITY, QUANT, Row, TIMING, environment};
use crate::error::{Error, Result};
use crate::gguf::Target;

/// Says once on stderr if a trace switch is set, since this build cannot obey it, and goes on.
///
/// # Errors
/// Never in this build; with `instrument`, if a switch has a value that is not accepted.
pub fn init() -> Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(text) = notice(environment) {
            let _ = std::io::stderr().lock().write_all(text.as_bytes()); // a closed stderr is no reason to stop
        }
    });
    Ok(())
}

/// What to say about the switches that are set: any value but empty and `0` asks for something.
fn notice(read: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let asks = |name: &&str| read(name).is_some_and(|value| !value.is_empty() && value != "0");
    let set: Vec<&str> = [PARITY, QUANT, TIMING, FILE].into_iter().filter(asks).collect();
    if set.is_empty() {
        return None;
    }
    let (names, verb) = (set.join(", "), if set.len() == 1 { "is" } else { "are" });
    Some(format!(
        "bitnet: {names} {verb} set, but this binary was built without `instrument` and traces nothing; \
         `cargo build --release --features instrument` builds one that does\n"
    ))
}

/// Writes what [`record_to`] asked for; nothing in this build.
///
/// # Errors
/// Never in this build; with `instrument`, if the trace file cannot be written.
pub fn finish() -> Result<()> {
    Ok(())
}

/// Starts counting spans for [`report`].
///
/// # Errors
/// Always in this build, naming the command that makes the other.
pub fn profile() -> Result<()> {
    Err(not_in_this_build("profile"))
}

/// Records every span for a Chrome trace file, as `BITNET_TRACE_FILE` does.
///
/// # Errors
/// Always in this build, naming the command that makes the other.
pub fn record_to<'a>(target: impl Into<Target<'a>>) -> Result<()> {
    Err(not_in_this_build(&format!("trace file {}", target.into().path.display())))
}

/// What was counted since [`profile`]: nothing in this build.
#[must_use]
pub fn report() -> Vec<Row> {
    Vec::new()
}

fn not_in_this_build(what: &str) -> Error {
    let reason = "this binary was built without `instrument`; `cargo build --release --features instrument` \
                  builds one that traces";
    Error::Invalid { what: what.to_owned(), reason: reason.to_owned() }
}

/// Forgets what a token that is never chosen took: in this build nothing was kept.
pub const fn drop_phases() {}

/// Whether chosen tokens are logged: not in this build.
#[must_use]
pub const fn parity_on() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn with(set: &[(&str, &str)]) -> Option<String> {
        notice(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn no_switch_no_word() {
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("BITNET_PARITY", ""), ("BITNET_TRACE_QUANT", "0"), ("BITNET_OTHER", "1")]), None);
    }

    #[test]
    fn every_switch_that_is_set_is_named_in_one_line_with_the_command() {
        let one = with(&[("BITNET_TRACE_TIMING", "1")]).unwrap();
        assert!(one.starts_with("bitnet: BITNET_TRACE_TIMING is set, "), "{one}");
        assert!(one.contains("`cargo build --release --features instrument`"), "{one}");
        assert_eq!(one.matches('\n').count(), 1);
        let three =
            with(&[("BITNET_TRACE_FILE", "t.json"), ("BITNET_PARITY", "yes"), ("BITNET_TRACE_QUANT", "1")]);
        let three = three.unwrap();
        assert!(
            three.starts_with("bitnet: BITNET_PARITY, BITNET_TRACE_QUANT, BITNET_TRACE_FILE are set, "),
            "{three}"
        );
    }

    #[test]
    fn what_needs_the_feature_says_how_to_get_it() {
        for error in [profile().unwrap_err(), record_to(Path::new("t.json")).unwrap_err()] {
            assert!(error.to_string().contains("cargo build --release --features instrument"), "{error}");
        }
    }
}
