//! `bitnet chat`: turns, replies, and a few commands.
//!
//! - `input`: lines, from a terminal or a pipe
//! - `order`: what a line asks for
//! - `conversation`: messages, tokens, replies

mod conversation;
mod input;
mod order;

use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::path::Path;

use bitnet_core::gguf::replace_file;
use bitnet_core::tokenizer::{ChatFormat, Message, Role};
use bitnet_core::{Error, Model, SamplerOptions, Session, StopReason};
use serde_json::{Value, json};

use self::conversation::Conversation;
use self::input::{Heard, Input};
use self::order::{HELP, Order};
use super::generate::{Ended, Outcome, Phase};
use super::load::{Loaded, load, session_options};
use crate::args::ChatArgs;
use crate::exit::{Failure, complain};
use crate::interrupt;
use crate::output::{Output, escaped, note};
use crate::place;

/// Talks until there is nothing more to say.
pub(crate) fn chat(args: &ChatArgs) -> Result<(), Failure> {
    let Loaded { model, tokenizer, time: load_time } = load(&args.model)?;
    let Some(tokenizer) = &tokenizer else {
        return Err(Failure::misuse("chat", "the model has no vocabulary; give --tokenizer FILE"));
    };
    let session = Session::new(&model, &session_options(&args.model))?;
    let format = args.format.unwrap_or_else(|| ChatFormat::detect(tokenizer));
    // A format this vocabulary cannot write is refused now, not at the first turn.
    format.render(tokenizer, &[Message::new(Role::User, "")])?;
    // Llama 3's own settings, and those of the models that follow it; llama.cpp's for the rest.
    let usual = SamplerOptions { temperature: 0.6, top_p: 0.9, ..SamplerOptions::default() };
    let sampling = args.sampling.or(args.model.sampler_default(usual));
    let seed = sampling.seed;
    let mut conversation = Conversation::new(session, tokenizer, format, sampling, args.max_tokens)?;
    conversation.system = args.system.clone();
    let input = Input::new()?;
    interrupt::watch();
    if input.is_terminal() && !args.quiet {
        greet(&model, &conversation);
    }
    let metrics = Metrics { load_ms: load_time.as_secs_f64() * 1e3, ..Metrics::default() };
    let on_screen = io::stdout().is_terminal();
    let mut chat = Chat { conversation, input, out: Output::stdout(), on_screen, metrics, n_failed: 0 };
    let ended = chat.talk();
    let regular = matches!(ended, Ok(()) | Err(Failure::Said(_) | Failure::Interrupted));
    if regular && !args.quiet && chat.metrics.n_turns > 0 {
        chat.metrics.show();
        if args.sampling.is_drawn {
            note(format_args!("seed:        {seed}"));
        }
    }
    ended
}

fn greet(model: &Model, conversation: &Conversation<'_, '_>) {
    let path = model.gguf().path();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    note(format_args!(
        "{}: {} layers, chat template {}, {} positions of context. /help lists the commands.",
        escaped(&name),
        model.config().n_layer,
        conversation.format,
        conversation.session.n_ctx()
    ));
}

/// What was computed so far.
#[derive(Default)]
struct Metrics {
    load_ms: f64,
    n_turns: usize,
    prompt: Phase,
    eval: Phase,
    last: Option<(Phase, Phase)>,
}

struct Chat<'m, 't> {
    conversation: Conversation<'m, 't>,
    input: Input,
    out: Output,
    /// Whether stdout is a terminal, which control characters in a reply could confuse.
    on_screen: bool,
    metrics: Metrics,
    /// Lines that were refused.
    n_failed: usize,
}

impl Chat<'_, '_> {
    /// Line by line to the end. From a pipe, a line that was refused makes the run a failed one.
    fn talk(&mut self) -> Result<(), Failure> {
        let mut pressed = false;
        loop {
            self.out.flush()?;
            if interrupt::told_to_end() {
                return Err(Failure::Interrupted);
            }
            let line = match self.input.next()? {
                Heard::Line(line) => line,
                Heard::Unfit(why) => {
                    self.refuse(&why);
                    continue;
                }
                Heard::Interrupted if pressed => return Err(Failure::Interrupted),
                Heard::Interrupted => {
                    pressed = true;
                    note(format_args!("(Ctrl-C again, Ctrl-D or /quit leaves)"));
                    continue;
                }
                Heard::End => break,
            };
            pressed = false;
            match Order::of(&line) {
                Ok(Order::Quit) => break,
                Ok(order) => self.obey(&order)?,
                Err(why) => self.refuse(&why),
            }
        }
        if self.n_failed > 0 && !self.input.is_terminal() { Err(Failure::Said(1)) } else { Ok(()) }
    }

    fn refuse(&mut self, why: &str) {
        self.n_failed += 1;
        complain(why);
    }

    fn obey(&mut self, order: &Order<'_>) -> Result<(), Failure> {
        match order {
            Order::Nothing | Order::Quit => {}
            Order::Say(text) => return self.reply(text),
            Order::Help => note(format_args!("{HELP}")),
            Order::Clear => {
                self.conversation.clear()?;
                note(format_args!("(a new conversation)"));
            }
            Order::System(Some(text)) => {
                self.conversation.clear()?;
                self.conversation.system = Some((*text).to_owned());
                note(format_args!("(a new conversation, with this system prompt)"));
            }
            Order::System(None) => match &self.conversation.system {
                Some(text) => note(format_args!("{}", printable(text))),
                None => note(format_args!("(no system prompt)")),
            },
            Order::Save(path) => match self.save(Path::new(path)) {
                Ok(()) => {
                    note(format_args!("({}: {} messages)", escaped(path), self.conversation.messages.len()))
                }
                Err(why) => self.refuse(&why),
            },
            Order::Metrics => self.show_metrics(),
        }
        Ok(())
    }

    /// One turn: the reply as it comes, on a line of its own.
    fn reply(&mut self, text: &str) -> Result<(), Failure> {
        let Chat { conversation, out, on_screen, .. } = self;
        interrupt::forget(); // one that came after the last reply has nothing to stop here
        let mut last = None;
        let done = conversation.turn(text, |piece| {
            last = piece.chars().next_back().or(last);
            out.text(if *on_screen { printable(piece) } else { Cow::Borrowed(piece) }.as_ref())?;
            out.flush()
        });
        let done = match done {
            Ok(done) => done,
            Err(Failure::Engine(e @ Error::ContextFull { .. })) => {
                self.refuse(&format!("{e}; /clear begins a new conversation"));
                return Ok(());
            }
            Err(Failure::Engine(e)) if e.is_misuse() => {
                self.refuse(&e.to_string());
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        if last != Some('\n') {
            self.out.text("\n")?;
        }
        self.out.flush()?;
        // One stopped before its first token is taken back, as if it had never been asked for.
        if done.ended != Ended::Engine(StopReason::Interrupted) || !done.ids.is_empty() {
            self.metrics.add(&done);
        }
        match done.ended {
            Ended::Engine(StopReason::Interrupted)
                if self.input.is_terminal() && !interrupt::told_to_end() =>
            {
                note(format_args!("(stopped)"))
            }
            Ended::Engine(StopReason::Interrupted) => return Err(Failure::Interrupted),
            Ended::Engine(StopReason::Context) => {
                let n_ctx = self.conversation.session.n_ctx();
                complain(&format!(
                    "context is full at {n_ctx} positions, the reply ends here; /clear begins a new conversation \
                     (see --ctx-size)"
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the conversation; the error is a sentence for the person.
    fn save(&self, path: &Path) -> Result<(), String> {
        if let Some(why) = place::unfit(path, Some("the file exists, and is left alone")) {
            return Err(format!("{}: {why}", path.display()));
        }
        let messages = Value::from_iter(self.conversation.all_messages().map(|message| as_json(&message)));
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.conversation.session.model().gguf().path().to_string_lossy(),
            "chat_template": self.conversation.format.name(),
            "messages": messages,
        });
        replace_file(place::target(path, false), |file| {
            let written = io::Write::write_all(file, format!("{body:#}\n").as_bytes());
            written.map_err(|source| Error::Io { path: path.to_owned(), action: "write", source })
        })
        .map_err(|e| e.to_string())
    }

    fn show_metrics(&self) {
        let session = &self.conversation.session;
        let isa = session.model().kernels().isa();
        note(format_args!("context:     {} of {} positions", session.position(), session.n_ctx()));
        note(format_args!("kernels:     {isa}, {} threads", session.n_threads()));
        if let Some((prompt, eval)) = self.metrics.last {
            note(format_args!("last reply"));
            show_phases(prompt, eval);
        }
        note(format_args!("all {} replies", self.metrics.n_turns));
        self.metrics.show();
    }
}

/// Two lines, as `run` ends with.
fn show_phases(prompt: Phase, eval: Phase) {
    for (name, phase) in [("prompt eval:", prompt), ("eval:       ", eval)] {
        let (ms, n, speed) = (phase.ms(), phase.n, phase.tok_per_s());
        note(format_args!("{name} {ms:10.2} ms / {n:5} tokens ({speed:.2} tokens/s)"));
    }
}

impl Metrics {
    /// Loading, and all replies together.
    fn show(&self) {
        note(format_args!("load:        {:10.2} ms", self.load_ms));
        show_phases(self.prompt, self.eval);
    }

    fn add(&mut self, done: &Outcome) {
        self.n_turns += 1;
        for (sum, phase) in [(&mut self.prompt, done.prompt), (&mut self.eval, done.eval)] {
            sum.n += phase.n;
            sum.time += phase.time;
        }
        self.last = Some((done.prompt, done.eval));
    }
}

fn as_json(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    json!({ "role": role, "content": message.content })
}

/// `text` without characters that steer a terminal: a model may have learnt any byte.
fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(steers) { text.replace(steers, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_cannot_steer_the_terminal() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(printable("\x1b[2J\rx\x7f\u{9b}31m"), "\u{fffd}[2J\u{fffd}x\u{fffd}\u{fffd}31m");
    }
}
