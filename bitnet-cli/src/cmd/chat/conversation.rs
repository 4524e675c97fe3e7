//! A conversation: what was said, as messages and as the tokens the model has seen.

use bitnet_core::tokenizer::{ChatFormat, Detokenizer, Message, Role};
use bitnet_core::{Sampler, SamplerOptions, Session, StopReason, TokenId, Tokenizer};

use crate::cmd::generate::{Ended, Outcome, Voice, generate};
use crate::exit::Failure;

/// A conversation in progress.
pub(super) struct Conversation<'m, 't> {
    pub(super) session: Session<'m>,
    tokenizer: &'t Tokenizer,
    pub(super) format: ChatFormat,
    sampler: Sampler,
    sampling: SamplerOptions,
    end_tokens: Vec<TokenId>,
    max_tokens: Option<usize>,
    pub(super) system: Option<String>,
    /// What was said so far, without the system prompt.
    pub(super) messages: Vec<Message>,
    /// Every token so far; the session has seen all but the last few.
    tokens: Vec<TokenId>,
    /// The last reply's own end is among the tokens.
    ended: bool,
}

impl<'m, 't> Conversation<'m, 't> {
    /// A conversation in which nothing was said.
    pub(super) fn new(
        session: Session<'m>,
        tokenizer: &'t Tokenizer,
        format: ChatFormat,
        sampling: SamplerOptions,
        max_tokens: Option<usize>,
    ) -> Result<Self, Failure> {
        Ok(Conversation {
            session,
            tokenizer,
            format,
            sampler: Sampler::new(sampling.clone())?,
            sampling,
            end_tokens: format.end_tokens(tokenizer),
            max_tokens,
            system: None,
            messages: Vec::new(),
            tokens: Vec::new(),
            ended: false,
        })
    }

    /// Forgets what was said; the same words would get the same replies again.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        self.session.clear();
        self.sampler = Sampler::new(self.sampling.clone())?;
        self.messages.clear();
        self.tokens.clear();
        self.ended = false;
        Ok(())
    }

    /// The system prompt, then everything that was said.
    pub(super) fn all_messages(&self) -> impl Iterator<Item = Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        system.chain(self.messages.iter().cloned())
    }

    /// Says `text` and hands the reply to `hear`, piece by piece. A turn that fails, or is stopped before its reply
    /// begins, leaves the conversation as it was.
    pub(super) fn turn(
        &mut self,
        text: &str,
        mut hear: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Outcome, Failure> {
        let said = Message::new(Role::User, text);
        let n_before = self.tokens.len();
        self.tokens.extend(self.tokens_of(&said)?);
        let mut voice = Voice::new(Some(self.tokenizer), self.format.stop_strings(self.tokenizer))?;
        // What the session has not seen: the end of the last reply, and this turn.
        let prompt = self.tokens[self.session.position()..].to_vec();
        let (session, sampler) = (&mut self.session, &mut self.sampler);
        let done = generate(session, sampler, &prompt, self.max_tokens, &self.end_tokens, |id| {
            let (text, stopped) = voice.say(id);
            hear(&text)?;
            Ok(stopped)
        });
        let done = match done {
            Ok(done) if done.ended != Ended::Engine(StopReason::Interrupted) || !done.ids.is_empty() => done,
            unheard => {
                self.tokens.truncate(n_before);
                return unheard;
            }
        };
        hear(&voice.finish())?;
        self.keep(&done, &voice.text);
        self.messages.push(said);
        self.messages.push(Message::new(Role::Assistant, voice.text));
        Ok(done)
    }

    /// The tokens of a turn, after those there are.
    fn tokens_of(&self, said: &Message) -> Result<Vec<TokenId>, Failure> {
        if !self.tokens.is_empty() {
            return Ok(self.format.next_turn(self.tokenizer, std::slice::from_ref(said), self.ended)?);
        }
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        let messages: Vec<Message> = system.chain([said.clone()]).collect();
        Ok(self.format.render(self.tokenizer, &messages)?)
    }

    /// Adds a reply to the tokens: those of `text`, and its end if the format knows it by that token.
    fn keep(&mut self, done: &Outcome, text: &str) {
        let mut n_kept = done.ids.len();
        if done.ended == Ended::StopText {
            // A marker that is spelt as text is no part of the reply: keep the tokens that end before it.
            let (mut printed, mut len) = (Detokenizer::continuing(self.tokenizer), 0);
            let fits = |&&id: &&TokenId| {
                len += printed.push(id).len();
                len <= text.len()
            };
            n_kept = done.ids.iter().take_while(fits).count();
        }
        self.tokens.extend(&done.ids[..n_kept]);
        self.session.truncate(self.tokens.len());
        self.ended = done.end_token.is_some() && done.end_token == self.format.reply_end(self.tokenizer);
        if self.ended {
            self.tokens.extend(done.end_token);
        }
    }
}
