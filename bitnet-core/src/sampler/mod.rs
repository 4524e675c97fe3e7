//! Choosing the next token from its logits.
//!
//! The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, draw. Everything, the
//! exponential included, is made of IEEE additions, multiplications and divisions in a fixed order, so that
//! a seed gives the same text on every platform.

use crate::TokenId;
use crate::error::{Error, Result};
use crate::model::{MAX_POSITIONS, WantedLogits};
use crate::rng::SplitMix64;

/// How to choose. Values out of range are refused by [`Sampler::new`], never clamped.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides logits before the draw; finite, at least 0. 0 is greedy: the largest logit always wins.
    pub temperature: f32,
    /// Only the `top_k` largest logits take part; 0: all.
    pub top_k: usize,
    /// Only the smallest set of tokens with at least this much probability takes part; 0 to 1, 1: all.
    pub top_p: f32,
    /// Only tokens with at least this share of the best one's probability take part; 0 to 1, 0: all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; finite, above 0, 1: off.
    pub repeat_penalty: f32,
    /// How many accepted tokens count as recent; 0: none, at most 1 048 576 ([`MAX_POSITIONS`]).
    pub repeat_last_n: usize,
    /// Seed of the random draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// llama.cpp's defaults, and seed 0.
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// The largest logit, always.
    #[must_use]
    pub fn greedy() -> SamplerOptions {
        SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }
    }

    /// How many tokens are remembered: none, if a penalty of 1 would change nothing.
    fn n_recent(&self) -> usize {
        if self.repeat_penalty == 1.0 { 0 } else { self.repeat_last_n }
    }

    fn check(&self) -> Result<()> {
        let refuse = |flag: &str, value: &dyn std::fmt::Display, accepted: &str| {
            Err(Error::Invalid { what: format!("{flag} {value}"), reason: format!("expected {accepted}") })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("--temp", &self.temperature, "a finite number, 0 (greedy) or above");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return refuse("--top-p", &self.top_p, "a number from 0 to 1 (1: off)");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("--min-p", &self.min_p, "a number from 0 (off) to 1");
        }
        if !(self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite()) {
            return refuse("--repeat-penalty", &self.repeat_penalty, "a finite number above 0 (1: off)");
        }
        // The history is allocated once, so that its length needs a bound.
        if self.repeat_last_n > MAX_POSITIONS {
            let accepted = format!("at most {MAX_POSITIONS} (0: off)");
            return refuse("--repeat-last-n", &self.repeat_last_n, &accepted);
        }
        Ok(())
    }
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    id: TokenId,
}

impl Candidate {
    /// Best first: larger logits, then lower ids.
    fn rank(&self, other: &Candidate) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens and remembers the recent ones. Allocates in `new` and in the first `sample` only.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    random: SplitMix64,
    /// The last accepted tokens; once full, a ring whose oldest entry is at `oldest`.
    recent: Vec<TokenId>,
    oldest: usize,
    /// Logits after the penalty.
    penalized: Vec<f32>,
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler with nothing accepted yet.
    ///
    /// # Errors
    /// If an option is out of its range; the message names the flag and the range.
    pub fn new(options: SamplerOptions) -> Result<Sampler> {
        options.check()?;
        Ok(Sampler {
            random: SplitMix64(options.seed),
            recent: Vec::with_capacity(options.n_recent()),
            oldest: 0,
            penalized: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
            options,
        })
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Whether the largest logit always wins, so that only the best one matters.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0
    }

    /// The logits a choice depends on: few, when only the largest can win and no penalty reorders them.
    #[must_use]
    pub fn wanted(&self) -> WantedLogits {
        match self.options {
            SamplerOptions { repeat_penalty, .. } if repeat_penalty != 1.0 => WantedLogits::All,
            _ if self.is_greedy() => WantedLogits::Top(1),
            SamplerOptions { top_k: 0, .. } => WantedLogits::All,
            SamplerOptions { top_k, .. } => WantedLogits::Top(top_k),
        }
    }

    /// Back to the state after `new`.
    pub fn reset(&mut self) {
        self.random = SplitMix64(self.options.seed);
        self.recent.clear();
        self.oldest = 0;
    }

    /// Counts `id` as recent. To be called for every token of the context, the prompt's too.
    pub fn accept(&mut self, id: TokenId) {
        let n_max = self.options.n_recent();
        if self.recent.len() < n_max {
            self.recent.push(id);
        } else if n_max > 0 {
            self.recent[self.oldest] = id;
            self.oldest = (self.oldest + 1) % n_max;
        }
    }

    /// The next token. Never one whose logit is NaN or -infinity, unless all are; then the lowest id.
    pub fn sample(&mut self, logits: &[f32]) -> TokenId {
        if self.recent.is_empty() {
            return self.choose(logits);
        }
        let mut penalized = std::mem::take(&mut self.penalized);
        penalized.clear();
        penalized.extend_from_slice(logits);
        for &id in &self.recent {
            let (Some(&logit), Some(new)) = (logits.get(id as usize), penalized.get_mut(id as usize)) else {
                continue;
            };
            // From the original logit, so that a token seen twice is penalized once.
            let penalty = self.options.repeat_penalty;
            *new = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
        let id = self.choose(&penalized);
        self.penalized = penalized;
        id
    }

    fn choose(&mut self, logits: &[f32]) -> TokenId {
        if self.is_greedy() {
            return argmax(logits);
        }
        self.gather(logits);
        self.keep_top_p();
        self.weigh();
        self.draw().unwrap_or_else(|| argmax(logits))
    }

    /// The `top_k` best candidates, best first; without top-k all of them, by id.
    fn gather(&mut self, logits: &[f32]) {
        let is_off = self.options.top_k == 0 || self.options.top_k >= logits.len();
        let k = if is_off { usize::MAX } else { self.options.top_k };
        // Twice k are collected before the worse half is thrown out: linear in the vocabulary.
        let n_full = k.saturating_mul(2).max(64).min(logits.len());
        self.candidates.clear();
        self.candidates.reserve(n_full);
        let mut floor = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            // False for NaN. An equal logit with a higher id would lose anyway.
            if logit > floor {
                self.candidates.push(Candidate { logit: logit + 0.0, id: id as TokenId }); // -0.0 becomes 0.0
                if self.candidates.len() == n_full && k < n_full {
                    self.candidates.select_nth_unstable_by(k - 1, Candidate::rank);
                    self.candidates.truncate(k);
                    floor = self.candidates[k - 1].logit;
                }
            }
        }
        if !is_off {
            if k < self.candidates.len() {
                self.candidates.select_nth_unstable_by(k - 1, Candidate::rank);
                self.candidates.truncate(k);
            }
            self.candidates.sort_unstable_by(Candidate::rank);
        }
    }

    /// Keeps the smallest set of best candidates whose probabilities add up to `top_p`, at least one.
    fn keep_top_p(&mut self) {
        if self.options.top_p >= 1.0 {
            return;
        }
        let max = self.max();
        let wanted = {
            let total: f64 = self.candidates.iter().map(|c| weight(c.logit, max, 1.0)).sum();
            f64::from(self.options.top_p) * total
        };
        let mut n_sorted = 0;
        let mut sum = 0.0;
        let mut n_kept = 0;
        while n_kept < self.candidates.len() {
            if n_kept == n_sorted {
                // Sorting four times further each time costs little where the set is small, as it mostly is.
                let rest = &mut self.candidates[n_sorted..];
                let more = (n_sorted * 3).max(256).min(rest.len());
                if more < rest.len() {
                    rest.select_nth_unstable_by(more - 1, Candidate::rank);
                }
                rest[..more].sort_unstable_by(Candidate::rank);
                n_sorted += more;
            }
            sum += weight(self.candidates[n_kept].logit, max, 1.0);
            n_kept += 1;
            if sum >= wanted {
                break;
            }
        }
        self.candidates.truncate(n_kept);
    }

    /// Drops candidates that fall short of min-p, and weighs the others at the temperature.
    fn weigh(&mut self) {
        let max = self.max();
        let min_p = f64::from(self.options.min_p);
        if min_p > 0.0 {
            // The best itself weighs exactly 1.
            self.candidates.retain(|c| weight(c.logit, max, 1.0) >= min_p);
        }
        let temperature = f64::from(self.options.temperature);
        self.weights.clear();
        self.weights.reserve(self.candidates.capacity());
        self.weights.extend(self.candidates.iter().map(|c| weight(c.logit, max, temperature)));
    }

    fn draw(&mut self) -> Option<TokenId> {
        let total: f64 = self.weights.iter().sum();
        let mut left = self.random.unit() * total;
        for (candidate, &weight) in self.candidates.iter().zip(&self.weights) {
            if left < weight {
                return Some(candidate.id);
            }
            left -= weight;
        }
        // Rounding can leave a remainder: the last token with any weight takes it.
        let last = self.weights.iter().rposition(|&weight| weight > 0.0)?;
        Some(self.candidates[last].id)
    }

    fn max(&self) -> f32 {
        self.candidates.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
    }
}

/// The id of the largest logit, the lowest id among equals. NaN never wins; without any number, id 0.
#[must_use]
pub fn argmax(logits: &[f32]) -> TokenId {
    const CHUNK: usize = 64;
    let (mut best, mut max) = (0, f32::NEG_INFINITY);
    for (first, chunk) in (0..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
        // Comparing a whole chunk is quick, and most often nothing in it is larger.
        if !chunk.iter().fold(false, |any, &logit| any | (logit > max)) {
            continue;
        }
        for (id, &logit) in (first..).zip(chunk) {
            if logit > max {
                (best, max) = (id, logit);
            }
        }
    }
    best
}

/// `exp((logit - max) / temperature)`, 1 for the maximum itself even if it is infinite.
fn weight(logit: f32, max: f32, temperature: f64) -> f64 {
    if logit == max { 1.0 } else { exp((f64::from(logit) - f64::from(max)) / temperature) }
}

/// `e^x` for `x <= 0`, the same bits everywhere (the standard library's is the platform's); relative error
/// below 1e-15. `x = n ln 2 + r` with `|r| <= ln 2 / 2`, Taylor's series to degree 13 for `e^r`, `n` into the exponent.
fn exp(x: f64) -> f64 {
    if x.is_nan() || x < -700.0 {
        return 0.0; // below 1e-304: nothing that could be drawn
    }
    let n = (x * std::f64::consts::LOG2_E).round();
    // ln 2 in two parts, the first short enough for an exact product with n (Cody and Waite 1980).
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = 1.0;
    for degree in (1..=13).rev() {
        sum = 1.0 + sum * r / f64::from(degree);
    }
    let exponent = (n as i64 + 1023) as u64; // n is in -1010..=0
    sum * f64::from_bits(exponent << 52)
}

#[cfg(test)]
mod tests;
