//! The generation loop: evaluate, choose, repeat.

use std::iter::FusedIterator;
use std::time::{Duration, Instant};

use crate::TokenId;
use crate::error::Result;
use crate::model::WantedLogits;
use crate::parity::TOP_K;
use crate::sampler::Sampler;
use crate::session::Session;
use crate::trace::{self, parity_trace, trace_timing};

/// What ends a generation besides the caller.
#[derive(Clone, Copy, Default)]
pub struct GenerateOptions<'a> {
    /// Tokens to generate; no limit but the context without it.
    pub max_tokens: Option<usize>,
    /// Tokens that end the text, usually [`Tokenizer::end_tokens`](crate::Tokenizer::end_tokens); none by default.
    pub end_tokens: &'a [TokenId],
    /// Asked before each batch of the prompt and before each token; `false` ends the generation.
    pub go_on: Option<&'a (dyn Fn() -> bool + Sync)>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model said so, with an end token.
    EndToken,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// `go_on` said no.
    Interrupted,
}

/// One token, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generated {
    /// Index among the generated tokens.
    pub step: usize,
    /// The token; the last one may be an end token.
    pub token: TokenId,
    /// Time from the request for this token to its choice: for step 0, the whole prompt. An instrumented build writes
    /// the token's lines after that.
    pub elapsed: Duration,
}

/// An iterator over generated tokens, which ends after an error, too; see [`Session::generate`].
pub struct Generation<'a, 'm> {
    session: &'a mut Session<'m>,
    sampler: &'a mut Sampler,
    options: GenerateOptions<'a>,
    /// Tokens the model has yet to see: the prompt, then the token chosen last.
    pending: Vec<TokenId>,
    step: usize,
    stopped: Option<StopReason>,
    failed: bool,
}

impl<'m> Session<'m> {
    /// Appends `prompt` and generates from there, one token for each call of `next`.
    ///
    /// The sampler is told of every token of the prompt and of every choice, for its repetition penalty. A token
    /// becomes part of the session when the one after it is asked for, so the last one never does.
    pub fn generate<'a>(
        &'a mut self,
        prompt: &[TokenId],
        sampler: &'a mut Sampler,
        options: GenerateOptions<'a>,
    ) -> Generation<'a, 'm> {
        prompt.iter().for_each(|&token| sampler.accept(token));
        Generation {
            session: self,
            sampler,
            options,
            pending: prompt.to_vec(),
            step: 0,
            stopped: None,
            failed: false,
        }
    }
}

impl Generation<'_, '_> {
    /// Why the iterator ended; `None` while it has not, or after an error.
    #[must_use]
    pub fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    fn stop(&mut self, reason: StopReason) -> Option<Result<Generated>> {
        self.stopped = Some(reason);
        None
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<Generated>;

    fn next(&mut self) -> Option<Result<Generated>> {
        if self.stopped.is_some() || self.failed {
            return None;
        }
        if self.options.max_tokens.is_some_and(|most| self.step >= most) {
            return self.stop(StopReason::Length);
        }
        if self.step > 0 && self.session.position() + self.pending.len() > self.session.n_ctx() {
            return self.stop(StopReason::Context);
        }
        let begun = Instant::now();
        let go_on = || self.options.go_on.is_none_or(|go_on| go_on());
        let wanted = match self.sampler.wanted() {
            // A parity log shows ten logits, and a plain build knows that it never writes one.
            WantedLogits::Top(k) if trace::parity_on() => WantedLogits::Top(k.max(TOP_K)),
            wanted => wanted,
        };
        match self.session.advance(&self.pending, wanted, go_on) {
            Ok(true) => {}
            Ok(false) => {
                trace::drop_phases();
                return self.stop(StopReason::Interrupted);
            }
            Err(error) => {
                self.failed = true;
                return Some(Err(error));
            }
        }
        let logits = self.session.last_logits();
        let (token, elapsed) = choose(self.sampler, logits, begun);
        parity_trace!(step = self.step, token = token, logits = logits);
        let generated = Generated { step: self.step, token, elapsed };
        self.step += 1;
        self.pending.clear();
        self.pending.push(token);
        if self.options.end_tokens.contains(&token) {
            self.stopped = Some(StopReason::EndToken);
        }
        Some(Ok(generated))
    }
}

impl FusedIterator for Generation<'_, '_> {}

/// The token, and the time since `begun`: read here, since the end of this phase writes a token's timing lines.
#[trace_timing(sample)]
fn choose(sampler: &mut Sampler, logits: &[f32], begun: Instant) -> (TokenId, Duration) {
    let token = sampler.sample(logits);
    sampler.accept(token);
    (token, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::Error;
    use crate::model::{LoadOptions, Model};
    use crate::sampler::SamplerOptions;
    use crate::session::SessionOptions;

    #[test]
    fn nothing_comes_after_an_error() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/llama-tiny.gguf");
        let model = Model::load(&path, &LoadOptions::default()).unwrap();
        let options = SessionOptions { n_threads: Some(1), ..SessionOptions::default() };
        let mut session = Session::new(&model, &options).unwrap();
        let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
        let unknown = model.config().n_vocab as TokenId;
        let mut tokens = session.generate(&[unknown], &mut sampler, GenerateOptions::default());
        assert!(matches!(tokens.next(), Some(Err(Error::Token { id, .. })) if id == unknown));
        assert!(tokens.next().is_none() && tokens.stopped().is_none());
    }
}
