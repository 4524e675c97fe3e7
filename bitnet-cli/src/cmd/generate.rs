//! The engine's generation loop, as verbs use it: Ctrl-C, stop texts and the times of its two phases.

use std::time::{Duration, Instant};

use bitnet_core::tokenizer::{Detokenizer, StopMatcher};
use bitnet_core::{GenerateOptions, Generated, Sampler, Session, StopReason, TokenId, Tokenizer};

use crate::exit::Failure;
use crate::interrupt;

/// What ended a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The engine: an end token, a limit, Ctrl-C.
    Engine(StopReason),
    /// A stop text came.
    StopText,
}

impl Ended {
    /// Its name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ended::Engine(StopReason::EndToken) => "eos",
            Ended::Engine(StopReason::Length) => "length",
            Ended::Engine(StopReason::Context) => "context",
            Ended::Engine(StopReason::Interrupted) => "interrupted",
            Ended::StopText => "stop",
        }
    }
}

/// Tokens computed and the time it took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phase {
    pub(crate) n: usize,
    pub(crate) time: Duration,
}

impl Phase {
    fn add(&mut self, n: usize, time: Duration) {
        self.n += n;
        self.time += time;
    }

    /// Speed; 0 if nothing was computed.
    pub(crate) fn tok_per_s(self) -> f64 {
        if self.n == 0 { 0.0 } else { self.n as f64 / self.time.as_secs_f64().max(1e-9) }
    }

    pub(crate) fn ms(self) -> f64 {
        self.time.as_secs_f64() * 1e3
    }
}

/// What a generation came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The tokens chosen, without the end token.
    pub(crate) ids: Vec<TokenId>,
    pub(crate) ended: Ended,
    /// The end token, if one was chosen.
    pub(crate) end_token: Option<TokenId>,
    /// The prompt, up to the choice of the first token.
    pub(crate) prompt: Phase,
    /// Every token after the first: each was decoded from the one before it.
    pub(crate) eval: Phase,
    /// From the first request to the end: both of these, and what was done with tokens in between.
    pub(crate) wall: Duration,
}

/// Continues `prompt` and calls `hear` with every token as it is chosen; `hear` says whether a stop text came.
pub(crate) fn generate(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    prompt: &[TokenId],
    max_tokens: Option<usize>,
    end_tokens: &[TokenId],
    mut hear: impl FnMut(TokenId) -> Result<bool, Failure>,
) -> Result<Outcome, Failure> {
    let go_on = || !interrupt::pressed();
    let options = GenerateOptions { max_tokens, end_tokens, go_on: Some(&go_on) };
    let mut tokens = session.generate(prompt, sampler, options);
    let (mut ids, mut end_token) = (Vec::new(), None);
    let (mut first, mut eval) = (Phase::default(), Phase::default());
    let mut stop_text = false;
    let begun = Instant::now();
    for generated in tokens.by_ref() {
        let Generated { step, token, elapsed } = generated?;
        if step == 0 {
            first.add(prompt.len(), elapsed)
        } else {
            eval.add(1, elapsed)
        }
        if end_tokens.contains(&token) {
            end_token = Some(token);
            continue; // the last one
        }
        ids.push(token);
        if hear(token)? {
            stop_text = true;
            break;
        }
    }
    let wall = begun.elapsed();
    let ended = match tokens.stopped() {
        Some(reason) if !stop_text => Ended::Engine(reason),
        _ => Ended::StopText,
    };
    Ok(Outcome { ids, ended, end_token, prompt: first, eval, wall })
}

/// Tokens as text, character by character, up to a stop text.
pub(crate) struct Voice<'t> {
    /// `None`: the model has no vocabulary, and the ids themselves are the text.
    letters: Option<Detokenizer<'t>>,
    stops: StopMatcher,
    /// All text so far.
    pub(crate) text: String,
}

impl<'t> Voice<'t> {
    /// The voice of a text that continues a prompt.
    pub(crate) fn new(tokenizer: Option<&'t Tokenizer>, stops: Vec<String>) -> Result<Self, Failure> {
        let letters = tokenizer.map(Detokenizer::continuing);
        Ok(Voice { letters, stops: StopMatcher::new(stops)?, text: String::new() })
    }

    /// The text `id` adds, and whether a stop text ended it.
    pub(crate) fn say(&mut self, id: TokenId) -> (String, bool) {
        let piece = match &mut self.letters {
            Some(letters) => letters.push(id),
            None if self.text.is_empty() => id.to_string(),
            None => format!(" {id}"),
        };
        let heard = self.stops.push(&piece);
        self.text.push_str(&heard.text);
        (heard.text, heard.stopped)
    }

    /// What was held back: half a character, the beginning of a stop text that never came.
    pub(crate) fn finish(&mut self) -> String {
        let last = self.letters.as_mut().map(Detokenizer::finish).unwrap_or_default();
        let heard = self.stops.push(&last);
        let rest = heard.text + &self.stops.finish();
        self.text.push_str(&rest);
        rest
    }
}
