//! Parity logs: which token each step chose, and by which logits; written, read back and compared.
//!
//! One line per generated token, a JSON object of its own:
//!
//! ```text
//! {"step":0,"token":1234,"top_k":[[1234,17.25],[99,16.5]]}
//! ```
//!
//! - `step`: counts generated tokens; the first line may start anywhere, then by ones
//! - `token`: the id chosen
//! - `top_k`: `[id, logit]`, largest first, ties to the lower id; may be absent when only tokens are known.
//!   A logit is the shortest decimal that reads back to the same `f32`, or `"NaN"`, `"Infinity"`, `"-Infinity"`
//!
//! Another engine's log is anything with such lines in it: unknown keys are ignored, and so are lines that
//! hold no such object. A golden file is read as well: one JSON object with `prompt_tokens`, `generated` and
//! `top_k_per_position`, where step `k` was chosen from row `prompt_tokens.len() - 1 + k`.
//!
//! Start at [`Log::read`] and [`compare`].

mod compare;
mod log;

pub use compare::{Comparison, Verdict, compare};
pub use log::Log;

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::TokenId;

/// How many logits a line holds.
pub const TOP_K: usize = 10;

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Number of the generated token.
    pub step: u64,
    /// The token chosen.
    pub token: TokenId,
    /// The largest logits it was chosen by, largest first.
    pub top_k: Vec<(TokenId, f32)>,
}

/// The `k` largest of `logits` with their ids, largest first, ties to the lower id.
///
/// One pass that keeps the best `k` in order: no copy and no sort of the vocabulary. A NaN counts as larger
/// than anything, so that it is seen.
#[must_use]
pub fn top_k(logits: &[f32], k: usize) -> Vec<(TokenId, f32)> {
    let mut best: Vec<(TokenId, f32)> = Vec::with_capacity(k.min(logits.len()));
    for (id, &logit) in (0..).zip(logits) {
        if best.len() == k {
            match best.last() {
                Some(&(_, worst)) if larger(logit, worst) => best.pop(),
                _ => continue,
            };
        }
        let at = best.partition_point(|&(_, kept)| !larger(logit, kept));
        best.insert(at, (id, logit));
    }
    best
}

fn larger(a: f32, b: f32) -> bool {
    match a.partial_cmp(&b) {
        Some(order) => order == Ordering::Greater,
        None => a.is_nan() && !b.is_nan(),
    }
}

/// One line of a log, without its line feed.
#[must_use]
pub fn line(step: u64, token: TokenId, top_k: &[(TokenId, f32)]) -> String {
    let mut line = format!("{{\"step\":{step},\"token\":{token},\"top_k\":[");
    for (i, &(id, logit)) in top_k.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let quote = if logit.is_finite() { "" } else { "\"" };
        // Writing to a String cannot fail. `{:?}` is the shortest decimal that reads back, `1e30` for long ones.
        let _ = match logit {
            f32::INFINITY => write!(line, "{comma}[{id},\"Infinity\"]"),
            f32::NEG_INFINITY => write!(line, "{comma}[{id},\"-Infinity\"]"),
            _ => write!(line, "{comma}[{id},{quote}{logit:?}{quote}]"),
        };
    }
    line.push_str("]}");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`top_k`] must equal: a stable sort of everything.
    fn sorted(logits: &[f32], k: usize) -> Vec<(TokenId, f32)> {
        let mut all: Vec<_> = (0..).zip(logits.iter().copied()).collect();
        all.sort_by(|a, b| match (larger(a.1, b.1), larger(b.1, a.1)) {
            (true, _) => Ordering::Less,
            (_, true) => Ordering::Greater,
            _ => a.0.cmp(&b.0),
        });
        all.truncate(k);
        all
    }

    fn bits(pairs: &[(TokenId, f32)]) -> Vec<(TokenId, u32)> {
        pairs.iter().map(|&(id, logit)| (id, logit.to_bits())).collect()
    }

    #[test]
    fn top_k_equals_a_full_sort_with_ties_infinities_and_nans() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE];
        for n in [0, 1, 9, 10, 11, 12, 500] {
            for k in [0, 1, 10, 600] {
                let logits: Vec<f32> = (0..n)
                    .map(|_| match random() % 8 {
                        0 => specials[random() as usize % specials.len()],
                        _ => (random() % 23) as f32 - 11.0, // few values: many ties
                    })
                    .collect();
                assert_eq!(bits(&top_k(&logits, k)), bits(&sorted(&logits, k)), "{n} logits, top {k}");
            }
        }
    }

    #[test]
    fn top_k_is_right_when_every_value_displaces_the_last() {
        let rising: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        assert_eq!(top_k(&rising, 3), [(999, 999.0), (998, 998.0), (997, 997.0)]);
    }

    #[test]
    fn a_line_looks_as_documented() {
        assert_eq!(
            line(0, 1234, &[(1234, 17.25), (99, 16.5)]),
            r#"{"step":0,"token":1234,"top_k":[[1234,17.25],[99,16.5]]}"#
        );
        assert_eq!(line(7, 0, &[]), r#"{"step":7,"token":0,"top_k":[]}"#);
    }

    #[test]
    fn a_line_is_json_whatever_the_logits_are() {
        let logits = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 3.0, 1e30, 1e-40, f32::MAX, -1.5e-7];
        let pairs: Vec<_> = (0..).zip(logits).collect();
        let line = line(u64::MAX, TokenId::MAX, &pairs);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["token"], TokenId::MAX);
        assert_eq!(json["top_k"][0][1], "NaN");
        assert_eq!(json["top_k"][1][1], "Infinity");
        assert_eq!(json["top_k"][2][1], "-Infinity");
        assert!(line.contains("[3,-0.0],[4,3.0],[5,1e30]"), "{line}");
    }
}
