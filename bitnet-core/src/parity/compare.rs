//! Two logs side by side.

use std::collections::BTreeMap;
use std::fmt;

use super::{Log, Step};
use crate::TokenId;
use crate::error::{Error, Result};

/// What two logs have in common, over the steps both have, up to the first that chose differently: from
/// there on the two runs continue different texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The short answer.
    pub verdict: Verdict,
    /// Steps compared, the diverging one included.
    pub steps: usize,
    /// Steps that only the first and only the second log has.
    pub only_in: [usize; 2],
    /// The first step with any difference: token, ranking or a bit of a logit.
    pub first_difference: Option<u64>,
    /// Logits both logs hold for the same token at the same step.
    pub shared_logits: usize,
    /// Largest absolute difference of those; infinite where only one is NaN.
    pub max_difference: f64,
    /// Where that is: step and token.
    pub max_difference_at: Option<(u64, TokenId)>,
    /// Root of the mean squared difference.
    pub rms_difference: f64,
    /// Ranks both logs hold, over all steps: what a verdict of [`Verdict::Identical`] is about.
    pub ranks: usize,
    /// Share of them that hold the same token in both; nothing if there are none.
    pub rank_agreement: Option<f64>,
}

/// The short answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Same tokens, and at every rank both logs hold the same token and the same bits of its logit; there is one such
    /// rank at every step. A log may hold more logits than the other: those are not compared.
    Identical,
    /// Same tokens; logits differ, or one log has none.
    SameTokens,
    /// Different tokens from this step on.
    DivergedAt(u64),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Identical => f.write_str("identical"),
            Verdict::SameTokens => f.write_str("same tokens"),
            Verdict::DivergedAt(step) => write!(f, "diverged at step {step}"),
        }
    }
}

/// Compares step by step; a log may begin later or end earlier than the other.
///
/// # Errors
/// If no step is in both.
pub fn compare(a: &Log, b: &Log) -> Result<Comparison> {
    let (Some(first_a), Some(first_b)) = (a.steps.first(), b.steps.first()) else {
        return Err(no_common_step(a, b));
    };
    let start = first_a.step.max(first_b.step);
    let (a_steps, b_steps) = (from(&a.steps, start), from(&b.steps, start));
    let common = a_steps.len().min(b_steps.len());
    if common == 0 {
        return Err(no_common_step(a, b));
    }

    let mut tally = Tally::default();
    let mut steps = 0;
    let mut diverged = None;
    for (a, b) in a_steps.iter().zip(b_steps) {
        steps += 1;
        tally.add(a, b);
        if a.token != b.token {
            diverged = Some(a.step);
            break;
        }
    }
    let verdict = match diverged {
        Some(step) => Verdict::DivergedAt(step),
        None if tally.first_difference.is_none() && !tally.some_step_without_logits => Verdict::Identical,
        None => Verdict::SameTokens,
    };
    Ok(Comparison {
        verdict,
        steps,
        only_in: [a.steps.len() - common, b.steps.len() - common],
        first_difference: tally.first_difference,
        shared_logits: tally.shared,
        max_difference: tally.max,
        max_difference_at: tally.max_at,
        rms_difference: if tally.shared == 0 { 0.0 } else { (tally.squares / tally.shared as f64).sqrt() },
        ranks: tally.ranks,
        rank_agreement: (tally.ranks > 0).then(|| tally.same_ranks as f64 / tally.ranks as f64),
    })
}

/// The steps numbered `start` and later; numbers rise by one.
fn from(steps: &[Step], start: u64) -> &[Step] {
    let at = steps.partition_point(|step| step.step < start);
    &steps[at..]
}

fn no_common_step(a: &Log, b: &Log) -> Error {
    let range = |log: &Log| match (log.steps.first(), log.steps.last()) {
        (Some(first), Some(last)) => {
            format!("{} has steps {} to {}", log.path.display(), first.step, last.step)
        }
        _ => format!("{} has no step", log.path.display()),
    };
    Error::Invalid {
        what: "comparison".to_owned(),
        reason: format!("no step is in both logs: {}, {}", range(a), range(b)),
    }
}

#[derive(Default)]
struct Tally {
    first_difference: Option<u64>,
    some_step_without_logits: bool,
    shared: usize,
    max: f64,
    max_at: Option<(u64, TokenId)>,
    squares: f64,
    ranks: usize,
    same_ranks: usize,
}

impl Tally {
    fn add(&mut self, a: &Step, b: &Step) {
        let ranks = a.top_k.len().min(b.top_k.len());
        let ranking = a.top_k.iter().zip(&b.top_k);
        let same_ranks = ranking.clone().filter(|(a, b)| a.0 == b.0).count();
        let same_bits =
            ranking.clone().all(|(a, b)| a.1.to_bits() == b.1.to_bits() || a.1.is_nan() && b.1.is_nan());
        self.ranks += ranks;
        self.same_ranks += same_ranks;
        self.some_step_without_logits |= ranks == 0;
        if self.first_difference.is_none() && !(a.token == b.token && same_ranks == ranks && same_bits) {
            self.first_difference = Some(a.step);
        }
        let in_b: BTreeMap<TokenId, f32> = b.top_k.iter().copied().collect();
        for &(id, x) in &a.top_k {
            if let Some(&y) = in_b.get(&id) {
                self.add_logit(a.step, id, difference(x, y));
            }
        }
    }

    fn add_logit(&mut self, step: u64, id: TokenId, difference: f64) {
        self.shared += 1;
        self.squares += difference * difference;
        if difference > self.max {
            self.max = difference;
            self.max_at = Some((step, id));
        }
    }
}

/// `|x - y|`, which f64 holds exactly enough; equal infinities and two NaNs do not differ.
fn difference(x: f32, y: f32) -> f64 {
    if x == y || x.is_nan() && y.is_nan() {
        return 0.0;
    }
    let difference = (f64::from(x) - f64::from(y)).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(first: u64, steps: &[(TokenId, &[(TokenId, f32)])]) -> Log {
        let steps = (first..).zip(steps);
        let steps =
            steps.map(|(step, &(token, top_k))| Step { step, token, top_k: top_k.to_vec() }).collect();
        Log { path: "x.log".into(), steps, skipped_lines: 0 }
    }

    #[test]
    fn a_log_is_identical_to_itself_whatever_its_logits() {
        let a = log(0, &[(1, &[(1, f32::NAN), (3, f32::INFINITY)]), (2, &[(2, -0.0)])]);
        let c = compare(&a, &a).unwrap();
        assert_eq!(c.verdict, Verdict::Identical);
        assert_eq!((c.steps, c.only_in, c.shared_logits), (2, [0, 0], 3));
        assert_eq!((c.max_difference, c.rms_difference, c.rank_agreement), (0.0, 0.0, Some(1.0)));
        assert_eq!(c.first_difference, None);
    }

    #[test]
    fn one_bit_of_one_logit_is_enough_for_same_tokens() {
        let a = log(0, &[(1, &[(1, 2.0), (5, 0.0)]), (1, &[(1, 2.0)])]);
        let b = log(0, &[(1, &[(1, 2.0), (5, 0.0)]), (1, &[(1, 2.0f32.next_up())])]);
        let c = compare(&a, &b).unwrap();
        assert_eq!((c.verdict, c.first_difference), (Verdict::SameTokens, Some(1)));
        assert_eq!(c.max_difference_at, Some((1, 1)));
        let zero = log(0, &[(1, &[(1, 2.0), (5, -0.0)]), (1, &[(1, 2.0)])]);
        assert_eq!(compare(&a, &zero).unwrap().verdict, Verdict::SameTokens);
    }

    #[test]
    fn differences_are_taken_over_shared_ids_up_to_the_first_other_token() {
        let a = log(0, &[(1, &[(1, 4.0), (2, 3.0), (3, 1.0)]), (2, &[(2, 1.0)]), (3, &[(3, 1.0)])]);
        let b = log(0, &[(1, &[(1, 4.0), (3, 4.0), (9, 1.0)]), (7, &[(7, 1.0)]), (3, &[(3, 900.0)])]);
        let c = compare(&a, &b).unwrap();
        assert_eq!(c.verdict, Verdict::DivergedAt(1));
        assert_eq!(c.verdict.to_string(), "diverged at step 1");
        assert_eq!((c.steps, c.first_difference, c.shared_logits), (2, Some(0), 2));
        assert_eq!((c.max_difference, c.max_difference_at), (3.0, Some((0, 3))));
        assert_eq!(c.rms_difference, (9.0f64 / 2.0).sqrt());
        assert_eq!(c.rank_agreement, Some(0.25)); // one of three ranks, none of one
    }

    #[test]
    fn only_ranks_both_hold_are_compared_and_they_are_counted() {
        let long = log(0, &[(1, &[(1, 4.0), (2, 3.0), (3, 1.0)]), (2, &[(2, 1.0), (9, 0.5)])]);
        let short = log(0, &[(1, &[(1, 4.0)]), (2, &[(2, 1.0), (9, 0.5)])]);
        let c = compare(&long, &short).unwrap();
        assert_eq!((c.verdict, c.ranks, c.rank_agreement), (Verdict::Identical, 3, Some(1.0)));
        assert_eq!(compare(&long, &long).unwrap().ranks, 5);
    }

    #[test]
    fn logs_are_aligned_by_step_and_may_end_apart() {
        let step: (TokenId, &[(TokenId, f32)]) = (1, &[(1, 1.0)]);
        let c = compare(&log(0, &[step; 5]), &log(2, &[step; 10])).unwrap();
        assert_eq!((c.verdict, c.steps, c.only_in), (Verdict::Identical, 3, [2, 7]));
        let error = compare(&log(0, &[step; 2]), &log(2, &[step])).unwrap_err().to_string();
        assert_eq!(
            error,
            "comparison: no step is in both logs: x.log has steps 0 to 1, x.log has steps 2 to 2"
        );
    }

    #[test]
    fn without_logits_there_is_no_identity_to_claim() {
        let c = compare(&log(0, &[(1, &[])]), &log(0, &[(1, &[(1, 1.0)])])).unwrap();
        assert_eq!((c.verdict, c.rank_agreement, c.shared_logits), (Verdict::SameTokens, None, 0));
    }

    #[test]
    fn a_nan_on_one_side_is_an_infinite_difference() {
        let c = compare(&log(0, &[(1, &[(1, f32::NAN)])]), &log(0, &[(1, &[(1, 1.0)])])).unwrap();
        assert_eq!((c.verdict, c.max_difference), (Verdict::SameTokens, f64::INFINITY));
    }
}
