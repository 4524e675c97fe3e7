//! A text in progress: a position, a cache, and the steps that move it on.

use std::sync::Arc;

use crate::TokenId;
use crate::error::{Error, Result};
use crate::forward::{Activations, Outputs, Step};
use crate::kv_cache::KvCache;
use crate::model::{MAX_POSITIONS, Model, Sifted, Skipped, WantedLogits};
use crate::team::Team;
use crate::trace::trace_timing;

/// How a session is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOptions {
    /// Positions the cache holds, 1 to 1 048 576 ([`MAX_POSITIONS`]); by default as many as the model was trained for.
    pub n_ctx: Option<usize>,
    /// Threads, 1 to 1024 ([`MAX_THREADS`](crate::team::MAX_THREADS)); by default one for each processor this process
    /// may use.
    pub n_threads: Option<usize>,
    /// Tokens of a prompt that go through the network together, at least 1; more than `n_ctx` is taken as `n_ctx`. By
    /// default [`DEFAULT_BATCH`].
    pub n_batch: Option<usize>,
}

/// Tokens of a prompt that go through the network together, unless told otherwise.
pub const DEFAULT_BATCH: usize = 512;

/// One sequence of tokens and what is remembered of it. Owned and mutable; the model is shared.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    team: Arc<Team>,
    cache: KvCache,
    act: Activations,
    pos: usize,
    n_ctx: usize,
    n_batch: usize,
}

impl<'m> Session<'m> {
    /// An empty session.
    ///
    /// # Errors
    /// If an option is out of range, or its memory or threads cannot be had.
    pub fn new(model: &'m Model, options: &SessionOptions) -> Result<Session<'m>> {
        let n_ctx = options.n_ctx.unwrap_or(model.config().n_ctx_train);
        let n_batch = options.n_batch.unwrap_or(DEFAULT_BATCH).min(n_ctx);
        let invalid = |what: &str, reason: String| Error::Invalid { what: what.into(), reason };
        if n_ctx == 0 || n_ctx > MAX_POSITIONS {
            return Err(invalid("--ctx-size", format!("expected 1 to {MAX_POSITIONS}, found {n_ctx}")));
        }
        if n_batch == 0 {
            return Err(invalid("--batch-size", "expected at least 1, found 0".into()));
        }
        let no_memory = |what: String| Error::Refused { what: format!("memory for {what}"), reason: None };
        let cache = KvCache::new(model.config(), n_ctx)
            .ok_or_else(|| no_memory(format!("a cache of {n_ctx} positions (see --ctx-size)")))?;
        let team = Arc::new(Team::new(options.n_threads)?);
        let act = Activations::new(model, n_batch, n_ctx)
            .ok_or_else(|| no_memory(format!("batches of {n_batch} tokens (see --batch-size)")))?;
        Ok(Session { model, team, cache, act, pos: 0, n_ctx, n_batch })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens seen so far, which is the position of the next one.
    #[must_use]
    pub fn position(&self) -> usize {
        self.pos
    }

    /// Positions the cache holds.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Tokens that go through the network together.
    #[must_use]
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Threads at work.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.team.n_threads()
    }

    /// Bytes of a full cache.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.cache.n_bytes()
    }

    /// Counters of the screened head.
    #[must_use]
    pub fn sifted(&self) -> Sifted {
        self.act.sifted()
    }

    /// Weights that decode steps did not have to read, so far.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.act.skipped()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets positions from `pos` on; nothing happens if there are none.
    pub fn truncate(&mut self, pos: usize) {
        self.pos = self.pos.min(pos);
    }

    /// Appends `tokens` and returns the logits after the last of them: `[n_vocab]`.
    ///
    /// # Errors
    /// If there are no tokens, one is not in the vocabulary, or they do not fit the context; nothing is appended.
    pub fn prefill(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        self.advance(tokens, WantedLogits::All, || true)?;
        Ok(self.act.last_logits())
    }

    /// As [`Session::prefill`], but computes only the `wanted` logits, which [`Session::last_logits`] returns, and asks
    /// `go_on` before each batch. Returns `false` if that said no: nothing is appended then.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn advance(
        &mut self,
        tokens: &[TokenId],
        wanted: WantedLogits,
        mut go_on: impl FnMut() -> bool + Send,
    ) -> Result<bool> {
        self.check(tokens)?;
        let before = self.pos;
        self.embed(tokens);
        let done = self.forward(Outputs::Last, &mut go_on);
        if done {
            self.logits(tokens.len() - 1, wanted);
        } else {
            self.truncate(before);
        }
        Ok(done)
    }

    /// The logits of the last step: `[n_vocab]`.
    #[must_use]
    pub fn last_logits(&self) -> &[f32] {
        self.act.last_logits()
    }

    /// Appends one token and returns the logits after it: `[n_vocab]`.
    ///
    /// # Errors
    /// If it is not in the vocabulary, or the context is full.
    pub fn decode(&mut self, token: TokenId) -> Result<&[f32]> {
        self.prefill(&[token])
    }

    /// Appends `tokens` and calls `each` with the index and the logits, `[n_vocab]`, of every one of them.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn score(&mut self, tokens: &[TokenId], mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        self.check(tokens)?;
        let mut index = 0;
        for batch in tokens.chunks(self.n_batch) {
            self.embed(batch);
            self.forward(Outputs::All, &mut || true);
            for t in 0..batch.len() {
                self.logits(t, WantedLogits::All);
                each(index, self.act.last_logits());
                index += 1;
            }
        }
        Ok(())
    }

    /// Rows of the embedding matrix become the residual stream of the new tokens.
    #[trace_timing(embed)]
    fn embed(&mut self, tokens: &[TokenId]) {
        self.step().embed(tokens);
    }

    /// Runs the new tokens through every block, batch by batch; `false` if `go_on` said no before one of them.
    #[trace_timing(forward)]
    fn forward(&mut self, outputs: Outputs, go_on: &mut (dyn FnMut() -> bool + Send)) -> bool {
        let (team, n_batch) = (self.team.clone(), self.n_batch);
        let mut step = self.step();
        let done = team.enter(|| step.forward(n_batch, outputs, go_on));
        self.pos = step.pos;
        done
    }

    /// Logits of new token `t`.
    #[trace_timing(logits)]
    fn logits(&mut self, t: usize, wanted: WantedLogits) {
        let (team, model) = (self.team.clone(), self.model);
        let screen = if wanted == WantedLogits::All { None } else { model.screen(&team) };
        let mut step = self.step();
        team.enter(|| step.logits(t, wanted, screen));
    }

    fn step(&mut self) -> Step<'_> {
        let Session { model, team, cache, act, pos, .. } = self;
        Step { model, team, cache, act, pos: *pos }
    }

    /// Whether `tokens` can be appended.
    fn check(&self, tokens: &[TokenId]) -> Result<()> {
        let n_vocab = self.model.config().n_vocab;
        if tokens.is_empty() {
            return Err(Error::Invalid {
                what: "prompt".into(),
                reason: "there are no tokens to evaluate".into(),
            });
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(Error::Token { id, n_vocab });
        }
        match self.pos.checked_add(tokens.len()) {
            Some(wanted) if wanted <= self.n_ctx => Ok(()),
            wanted => Err(Error::ContextFull { wanted: wanted.unwrap_or(usize::MAX), n_ctx: self.n_ctx }),
        }
    }
}
