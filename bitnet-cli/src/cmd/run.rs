//! `bitnet run`: continue a prompt.

use std::path::Path;
use std::time::Duration;

use bitnet_core::{Model, Sampler, SamplerOptions, Session, StopReason};
use serde_json::json;

use super::generate::{Ended, Outcome, Phase, Voice, generate};
use super::load::{Loaded, load, session_options};
use super::prompt;
use crate::args::RunArgs;
use crate::exit::Failure;
use crate::interrupt;
use crate::output::{Output, note, shown};

/// Streams the text, or prints one JSON object when it is complete.
pub(crate) fn run(args: RunArgs) -> Result<(), Failure> {
    let Loaded { model, tokenizer, time: load_time } = load(&args.model)?;
    let path = model.gguf().path();
    let tokenizer = tokenizer.as_ref();
    let ids = prompt::ids(&args.prompt, tokenizer)?;
    interrupt::watch(); // not before: waiting for stdin, the first Ctrl-C has to end it
    let mut session = Session::new(&model, &session_options(&args.model))?;
    let default = args.model.sampler_default(SamplerOptions::default());
    let mut sampler = Sampler::new(args.sampling.or(default))?;
    let seed = sampler.options().seed;
    if args.verbose {
        describe(path, &model, &session);
    }

    let mut voice = Voice::new(tokenizer, args.stop)?;
    let mut out = Output::stdout();
    let end_tokens = tokenizer.filter(|_| !args.ignore_eos).map_or(&[][..], |t| t.end_tokens());
    let done = generate(&mut session, &mut sampler, &ids, args.max_tokens, end_tokens, |id| {
        let (text, stopped) = voice.say(id);
        if !args.json && !text.is_empty() {
            out.text(&text)?;
            out.flush()?;
        }
        Ok(stopped)
    })?;
    let rest = voice.finish();

    if args.json {
        let timings = timings(load_time, &done);
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": path.to_string_lossy(),
            "isa": model.kernels().isa().name(),
            "threads": session.n_threads(),
            "seed": seed,
            "prompt_tokens": ids,
            "tokens": done.ids,
            "text": tokenizer.map(|_| &voice.text),
            "stop": done.ended.name(),
            "end_token": done.end_token,
            "timings": timings,
        });
        out.text(&format!("{body}\n"))?;
    } else {
        out.text(&rest)?;
        // The same bytes into a file as onto a terminal: text that ends its line.
        if !voice.text.is_empty() && !voice.text.ends_with('\n') {
            out.text("\n")?;
        }
    }
    out.flush()?;
    if !args.quiet {
        report(load_time, &done, session.n_ctx());
        if args.sampling.is_drawn {
            note(format_args!("seed:        {seed}"));
        }
    }
    if done.ended == Ended::Engine(StopReason::Interrupted) { Err(Failure::Interrupted) } else { Ok(()) }
}

/// What `-v` adds: which model, which kernels, how much of the machine.
fn describe(path: &Path, model: &Model, session: &Session<'_>) {
    let config = model.config();
    note(format_args!(
        "model: {}, {}, {} layers, n_embd {}, n_vocab {}",
        shown(path),
        config.arch.name(),
        config.n_layer,
        config.n_embd,
        config.n_vocab
    ));
    note(format_args!("kernel: {} ({})", model.kernels().ternary_name(), model.kernels().isa()));
    note(format_args!("threads: {}, context: {} positions", session.n_threads(), session.n_ctx()));
}

fn timings(load_time: Duration, done: &Outcome) -> serde_json::Value {
    let phase = |phase: Phase| json!({ "n": phase.n, "ms": phase.ms(), "tok_per_s": phase.tok_per_s() });
    json!({
        "load_ms": load_time.as_secs_f64() * 1e3,
        "prompt": phase(done.prompt),
        "eval": phase(done.eval),
        "wall_ms": done.wall.as_secs_f64() * 1e3,
    })
}

/// The last words on stderr, in the terms llama.cpp uses.
fn report(load_time: Duration, done: &Outcome, n_ctx: usize) {
    if done.ended == Ended::Engine(StopReason::Context) {
        note(format_args!(
            "bitnet: context is full at {n_ctx} positions, the text ends here (see --ctx-size)"
        ));
    }
    note(format_args!("load:        {:10.2} ms", load_time.as_secs_f64() * 1e3));
    for (name, phase) in [("prompt eval:", done.prompt), ("eval:       ", done.eval)] {
        let (ms, n, speed) = (phase.ms(), phase.n, phase.tok_per_s());
        note(format_args!("{name} {ms:10.2} ms / {n:5} tokens ({speed:.2} tokens/s)"));
    }
}
