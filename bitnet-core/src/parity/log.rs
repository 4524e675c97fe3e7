//! Reading a parity log or a golden file, neither of which is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::Step;
use crate::TokenId;
use crate::error::{Error, Result};

/// Far above any honest log (a line of ten logits takes about 200 bytes); reading never takes more than a
/// small multiple of it.
const MAX_BYTES: u64 = 256 << 20;

/// The steps of one run, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The file, for messages.
    pub path: PathBuf,
    /// At least one; `step` rises by one.
    pub steps: Vec<Step>,
    /// Lines that held no step: other engines' chatter, timing lines.
    pub skipped_lines: usize,
}

/// A JSON object whose values are still text, so that a number can be read straight to `f32`: by way of
/// `f64` it would be rounded twice.
type Object<'a> = BTreeMap<String, &'a RawValue>;

impl Log {
    /// Reads a log or a golden file.
    ///
    /// # Errors
    /// If the file cannot be read, is longer than 256 MiB, holds no step, or holds a broken one.
    pub fn read(path: &Path) -> Result<Log> {
        let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
        let file = File::open(path).map_err(io("open"))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io("read"))?;
        Log::parse(path, &bytes)
    }

    /// As [`read`](Log::read), from bytes already at hand; `path` is for messages.
    ///
    /// # Errors
    /// As [`read`](Log::read).
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Log> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(malformed(path, "parity log", "at most 256 MiB", "more"));
        }
        if let Some(golden) = golden(path, bytes)? {
            return Ok(golden);
        }
        let mut log = Log { path: path.to_owned(), steps: Vec::new(), skipped_lines: 0 };
        for (number, line) in (1..).zip(bytes.split(|&b| b == b'\n')) {
            let at = Place { path, item: format!("line {number}") };
            match step_line(&at, line.trim_ascii())? {
                Some(step) => {
                    if let Some(last) = log.steps.last()
                        && last.step.checked_add(1) != Some(step.step)
                    {
                        let expected = format!("the step after {}", last.step);
                        return Err(at.error(&expected, &format!("step {}", step.step)));
                    }
                    log.steps.push(step);
                }
                None if line.trim_ascii().is_empty() => {}
                None => log.skipped_lines += 1,
            }
        }
        if log.steps.is_empty() {
            let expected = "lines like {\"step\":0,\"token\":1,\"top_k\":[[1,0.5]]}, or a golden file";
            let found = format!("none in {} lines", log.skipped_lines);
            return Err(malformed(path, "parity log", expected, &found));
        }
        Ok(log)
    }
}

/// A step if the line holds one, nothing if it is about something else, an error if it is a broken step.
fn step_line(at: &Place<'_>, line: &[u8]) -> Result<Option<Step>> {
    if !line.starts_with(b"{") {
        return Ok(None);
    }
    let claims_a_step = line.trim_ascii().windows(6).any(|w| w == b"\"step\"");
    let object =
        match std::str::from_utf8(line).ok().and_then(|text| serde_json::from_str::<Object>(text).ok()) {
            Some(object) => object,
            None if claims_a_step => return Err(at.error("one whole JSON object", &shown(line))),
            None => return Ok(None),
        };
    let Some(step) = object.get("step") else { return Ok(None) };
    let step = at.number(step, "step")?;
    let Some(token) = object.get("token") else {
        return Err(at.error("a `token` beside `step`", "none"));
    };
    let token = at.number(token, "token")?;
    let top_k = match object.get("top_k") {
        Some(pairs) => at.pairs(pairs)?,
        None => Vec::new(),
    };
    Ok(Some(Step { step, token, top_k }))
}

/// The steps of a golden file; nothing if this is not one.
fn golden(path: &Path, bytes: &[u8]) -> Result<Option<Log>> {
    let object = std::str::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<Object>(text).ok());
    let Some(object) = object else { return Ok(None) };
    let Some(rows) = object.get("top_k_per_position") else { return Ok(None) };
    let ids = |key: &str| -> Result<Vec<TokenId>> {
        let at = Place { path, item: key.to_owned() };
        let Some(list) = object.get(key) else { return Err(at.error("a list of token ids", "nothing")) };
        let wrong = |_| at.error("a list of token ids", &shown(list.get().as_bytes()));
        serde_json::from_str(list.get()).map_err(wrong)
    };
    let (prompt, generated) = (ids("prompt_tokens")?, ids("generated")?);
    let at = Place { path, item: "top_k_per_position".to_owned() };
    let wrong = |_| at.error("a list of lists", &shown(rows.get().as_bytes()));
    let rows: Vec<&RawValue> = serde_json::from_str(rows.get()).map_err(wrong)?;
    let first = prompt.len().checked_sub(1).filter(|_| !generated.is_empty());
    let Some(first) = first else {
        return Err(malformed(path, "golden file", "a prompt and generated tokens", "an empty list"));
    };
    if rows.len() < first + generated.len() {
        let expected = format!("at least {} rows", first + generated.len());
        return Err(at.error(&expected, &rows.len().to_string()));
    }
    let mut steps = Vec::with_capacity(generated.len());
    for ((step, token), row) in (0..).zip(generated).zip(&rows[first..]) {
        let at = Place { path, item: format!("top_k_per_position[{}]", first as u64 + step) };
        steps.push(Step { step, token, top_k: at.pairs(row)? });
    }
    Ok(Some(Log { path: path.to_owned(), steps, skipped_lines: 0 }))
}

/// Where in which file, for messages.
struct Place<'a> {
    path: &'a Path,
    item: String,
}

impl Place<'_> {
    fn error(&self, expected: &str, found: &str) -> Error {
        malformed(self.path, &self.item, expected, found)
    }

    fn number<T: std::str::FromStr>(&self, value: &RawValue, key: &str) -> Result<T> {
        let wrong = |_| self.error(&format!("`{key}` to be a whole number"), &shown(value.get().as_bytes()));
        value.get().parse().map_err(wrong)
    }

    fn pairs(&self, value: &RawValue) -> Result<Vec<(TokenId, f32)>> {
        let wrong = |_| self.error("[id, logit] pairs", &shown(value.get().as_bytes()));
        let raw: Vec<(TokenId, &RawValue)> = serde_json::from_str(value.get()).map_err(wrong)?;
        let mut seen = BTreeSet::new();
        raw.into_iter()
            .map(|(id, logit)| {
                if !seen.insert(id) {
                    return Err(self.error("every id once", &format!("{id} twice")));
                }
                Ok((id, self.logit(logit.get())?))
            })
            .collect()
    }

    fn logit(&self, text: &str) -> Result<f32> {
        let value = match text {
            "\"NaN\"" => Some(f32::NAN),
            "\"Infinity\"" => Some(f32::INFINITY),
            "\"-Infinity\"" => Some(f32::NEG_INFINITY),
            _ => text.parse::<f32>().ok().filter(|value| value.is_finite()),
        };
        let expected = "a 32-bit number, \"NaN\", \"Infinity\" or \"-Infinity\"";
        value.ok_or_else(|| self.error(expected, &shown(text.as_bytes())))
    }
}

fn malformed(path: &Path, item: &str, expected: &str, found: &str) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        item: item.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

/// The beginning of what was found, fit for a terminal.
fn shown(bytes: &[u8]) -> String {
    const MAX: usize = 60;
    let mut text = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(MAX)]).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    format!("`{text}{}`", if bytes.len() > MAX { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::line;

    fn parse(text: impl AsRef<[u8]>) -> Result<Log> {
        Log::parse(Path::new("run.log"), text.as_ref())
    }

    #[track_caller]
    fn refused(text: impl AsRef<[u8]>, with: &str) {
        let message = parse(text).unwrap_err().to_string();
        assert_eq!(message, format!("run.log: {with}"));
    }

    #[test]
    fn every_f32_comes_back_with_its_bits() {
        // A stride coprime to 2^32 visits every exponent and both signs.
        let all: Vec<f32> = (0..200_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).collect();
        for (step, logits) in (0..).zip(all.chunks(1000)) {
            let pairs: Vec<_> = (0..).zip(logits.iter().copied()).collect();
            let log = parse(line(step, 3, &pairs)).unwrap();
            for (&(id, wrote), &(back_id, read)) in pairs.iter().zip(&log.steps[0].top_k) {
                assert_eq!(id, back_id);
                assert!(
                    wrote.to_bits() == read.to_bits() || wrote.is_nan() && read.is_nan(),
                    "{wrote:e} {read:e}"
                );
            }
        }
    }

    #[test]
    fn chatter_and_unknown_keys_are_skipped_and_chatter_is_counted() {
        let text = "loading ...\r\n\
                    timing: embed_us=3\n\
                    \n\
                    {\"event\":\"start\"}\n\
                    {not json either\n\
                    \x20 {\"step\":4,\"token\":7,\"text\":\"\\u00e9\",\"top_k\":[[7,1],[2,-2.5e-1]]}\r\n\
                    {\"token\":8,\"step\":5}";
        let log = parse(text).unwrap();
        assert_eq!(log.skipped_lines, 4);
        assert_eq!(
            log.steps,
            [
                Step { step: 4, token: 7, top_k: vec![(7, 1.0), (2, -0.25)] },
                Step { step: 5, token: 8, top_k: vec![] },
            ]
        );
    }

    #[test]
    fn a_golden_file_gives_the_rows_the_tokens_were_chosen_from() {
        let text = r#"{ "n_vocab": 4, "prompt_tokens": [1, 2], "generated": [3, 0],
            "top_k_per_position": [[[0, 9]], [[3, 1.5]], [[0, 2.5]], [[1, 8]]] }"#;
        let log = parse(text).unwrap();
        assert_eq!(
            log.steps,
            [
                Step { step: 0, token: 3, top_k: vec![(3, 1.5)] },
                Step { step: 1, token: 0, top_k: vec![(0, 2.5)] },
            ]
        );
    }

    #[test]
    fn broken_steps_are_refused_with_their_line() {
        let good = line(0, 1, &[(1, 0.5)]);
        refused(
            "",
            "parity log: expected lines like {\"step\":0,\"token\":1,\"top_k\":[[1,0.5]]}, or a golden file, found none in 0 lines",
        );
        refused(
            &good[..30],
            "line 1: expected one whole JSON object, found `{\"step\":0,\"token\":1,\"top_k\":[[`",
        );
        refused(
            "{\"step\":\t\u{1b}[2J",
            "line 1: expected one whole JSON object, found `{\"step\":\\t\\u{1b}[2J`",
        );
        refused(format!("{good}\n{good}"), "line 2: expected the step after 0, found step 0");
        refused("{\"step\":0}", "line 1: expected a `token` beside `step`, found none");
        refused("{\"step\":-1,\"token\":0}", "line 1: expected `step` to be a whole number, found `-1`");
        refused(
            "{\"step\":0,\"token\":4294967296}",
            "line 1: expected `token` to be a whole number, found `4294967296`",
        );
        refused("{\"step\":0,\"token\":1,\"top_k\":7}", "line 1: expected [id, logit] pairs, found `7`");
        refused(
            "{\"step\":0,\"token\":1,\"top_k\":[[1,2],[1,3]]}",
            "line 1: expected every id once, found 1 twice",
        );
        let number = "expected a 32-bit number, \"NaN\", \"Infinity\" or \"-Infinity\"";
        refused("{\"step\":0,\"token\":1,\"top_k\":[[1,1e99]]}", &format!("line 1: {number}, found `1e99`"));
        refused(
            "{\"step\":0,\"token\":1,\"top_k\":[[1,\"nan\"]]}",
            &format!("line 1: {number}, found `\"nan\"`"),
        );
    }

    #[test]
    fn broken_golden_files_are_refused_with_their_key() {
        let file = |prompt, generated, rows| {
            format!(r#"{{"prompt_tokens":{prompt},"generated":{generated},"top_k_per_position":{rows}}}"#)
        };
        refused(file("[1]", "[2,3]", "[[[2,1]]]"), "top_k_per_position: expected at least 2 rows, found 1");
        refused(
            file("[]", "[2]", "[[]]"),
            "golden file: expected a prompt and generated tokens, found an empty list",
        );
        refused(file("[1]", "\"x\"", "[[]]"), "generated: expected a list of token ids, found `\"x\"`");
        refused(
            file("[1]", "[2]", "[[[2,true]]]"),
            "top_k_per_position[0]: expected a 32-bit number, \"NaN\", \"Infinity\" or \"-Infinity\", found `true`",
        );
    }

    #[test]
    fn mutated_logs_never_panic() {
        let good = [line(0, 1, &[(1, 0.5), (2, f32::NAN)]), line(1, 2, &[(2, 1e30)])].join("\n");
        let golden = r#"{"prompt_tokens":[1],"generated":[2],"top_k_per_position":[[[2,1.5]]]}"#;
        for text in [good.as_str(), golden] {
            for at in 0..text.len() {
                let _ = parse(&text[..at]);
                for byte in [b'"', b'[', b'}', b'9', b'-', b'\n', 0, 0xff] {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = byte;
                    let _ = parse(bytes);
                }
            }
        }
        let _ = parse("[".repeat(100_000));
        let _ = parse(format!("{{\"step\":{}", "[".repeat(100_000)));
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Log::read(Path::new("no/such.log")).unwrap_err().to_string();
        assert!(message.starts_with("cannot open no/such.log: "), "{message}");
    }
}
