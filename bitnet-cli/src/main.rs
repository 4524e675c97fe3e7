//! `bitnet`: flags in, text and receipts out. The engine is `bitnet-core`; there is no arithmetic here.
//!
//! - `args`: help texts and parsers, the table of verbs
//! - `cmd`: one file per verb
//! - `exit`: failures and exit codes; `output`: stdout and stderr; `interrupt`: Ctrl-C
//! - `place`: where a file is to go
//! - `demo`: the model inside the binary
//! - `receipt`: what a measurement must carry to be believed

mod args;
mod cmd;
mod demo;
mod exit;
mod interrupt;
mod output;
#[cfg(feature = "full-cli")]
mod place;
mod progress;
#[cfg(feature = "full-cli")]
mod receipt;

use std::process::ExitCode;

use bitnet_core::trace;

use args::Command;
use exit::Failure;
use output::Output;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    let command = args::parse(std::env::args_os().skip(1).collect())?;
    if matches!(command, Command::Say(_)) {
        return obey(command); // help is no run to trace
    }
    trace::init()?;
    let ended = obey(command);
    let finished = trace::finish(); // a run that failed is worth looking at, too
    ended?;
    Ok(finished?)
}

fn obey(command: Command) -> Result<(), Failure> {
    match command {
        Command::Say(text) => Output::stdout().all(&text),
        Command::Run(args) => cmd::run::run(*args),
        #[cfg(feature = "full-cli")]
        Command::Chat(args) => cmd::chat::chat(&args),
        #[cfg(feature = "full-cli")]
        Command::Inspect(args) => cmd::inspect::inspect(&args),
        #[cfg(feature = "full-cli")]
        Command::Bench(args) => cmd::bench::bench(&args),
        #[cfg(feature = "full-cli")]
        Command::Parity(args) => cmd::parity::parity(&args),
        #[cfg(feature = "full-cli")]
        Command::Profile(args) => cmd::profile::profile(&args),
        #[cfg(feature = "full-cli")]
        Command::Perplexity(args) => cmd::perplexity::perplexity(&args),
        #[cfg(feature = "full-cli")]
        Command::Eval(args) => cmd::eval::eval(&args),
        #[cfg(feature = "full-cli")]
        Command::Doctor(args) => cmd::doctor::doctor(&args),
        #[cfg(feature = "full-cli")]
        Command::Convert(args) => cmd::convert::convert(&args),
        #[cfg(feature = "full-cli")]
        Command::Quantize(args) => cmd::quantize::quantize(&args),
        #[cfg(feature = "full-cli")]
        Command::Synth(args) => cmd::synth::synth(&args),
    }
}
