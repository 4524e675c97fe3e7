//! `bitnet perplexity`: how well a model predicts a text, in llama.cpp's manner.
//!
//! The text is cut into chunks of `n_ctx` tokens; each begins with the start token, if the model wants one, in the
//! place of its first token. Position `i` predicts token `i + 1`, for `i` from `n_ctx / 2` on: what has less than
//! half a context before it is not counted. Perplexity is `exp(mean of -ln p)`.

use std::time::Instant;

use bitnet_core::model::WantedLogits;
use bitnet_core::{Error, Session, TokenId};
use serde_json::json;

use super::load::{Loaded, load, session_options};
use super::prompt;
use crate::args::PerplexityArgs;
use crate::exit::Failure;
use crate::interrupt;
use crate::output::{Output, note};

/// Scores every chunk, showing the estimate so far.
pub(crate) fn perplexity(args: &PerplexityArgs) -> Result<(), Failure> {
    let Loaded { model, tokenizer, .. } = load(&args.model)?;
    let Some(tokenizer) = tokenizer else {
        return Err(Failure::misuse("perplexity", "the model has no vocabulary; give --tokenizer FILE"));
    };
    let tokens = prompt::ids(&args.text, Some(&tokenizer))?;
    let n_ctx = args.chunk;
    if tokens.len() < 2 * n_ctx {
        // As llama.cpp: one chunk alone has no half that is like the other chunks' halves.
        let reason = format!(
            "expected {} tokens at least, two chunks of {n_ctx}; found {} (a smaller --ctx-size needs fewer)",
            2 * n_ctx,
            tokens.len()
        );
        return Err(Failure::misuse("--file", &reason));
    }
    let start_token = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    // A session looks at what it is given, and the last token of a chunk is none of it.
    let n_vocab = model.config().n_vocab;
    if let Some(&id) = tokens.iter().chain(&start_token).find(|&&id| id as usize >= n_vocab) {
        return Err(Error::Token { id, n_vocab }.into());
    }
    interrupt::watch();
    let mut session = Session::new(&model, &session_options(&args.model))?;
    let mut out = Output::stdout();
    let (mut estimate, mut running) = (Estimate::default(), Vec::new());
    let start = Instant::now();
    for chunk in tokens.chunks_exact(n_ctx).take(args.n_chunks) {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = start_token {
            chunk[0] = bos;
        }
        if !score(&mut session, &chunk, &mut estimate)? {
            if !args.json {
                out.text("\n")?;
                out.flush()?;
            }
            return Err(Failure::Interrupted);
        }
        running.push(estimate.perplexity());
        if !args.json {
            out.text(&format!("[{}]{:.4},", running.len(), estimate.perplexity()))?;
            out.flush()?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model.gguf().path().to_string_lossy(),
            "perplexity": estimate.perplexity(),
            "error": estimate.error(),
            "mean_nll": estimate.mean(),
            "n_ctx": n_ctx,
            "n_chunks": running.len(),
            "n_scored": estimate.n,
            "running": running,
        });
        out.text(&format!("{body}\n"))?;
    } else {
        out.text(&format!(
            "\nFinal estimate: PPL = {:.4} +/- {:.5}\n",
            estimate.perplexity(),
            estimate.error()
        ))?;
    }
    out.flush()?;
    if !args.quiet {
        let n = running.len() * n_ctx;
        let speed = n as f64 / seconds.max(1e-9);
        note(format_args!("eval: {:10.2} ms / {n:5} tokens ({speed:.2} tokens/s)", seconds * 1e3));
    }
    Ok(())
}

/// Adds the second half of `chunk` to `estimate`; false if Ctrl-C came.
fn score(session: &mut Session<'_>, chunk: &[TokenId], estimate: &mut Estimate) -> Result<bool, Failure> {
    let go_on = || !interrupt::pressed();
    let n_first = chunk.len() / 2;
    session.clear();
    if !session.advance(&chunk[..n_first], WantedLogits::Top(1), go_on)? {
        return Ok(false);
    }
    // The last token is predicted and predicts nothing.
    let n_batch = session.n_batch();
    let (inputs, targets) = (&chunk[n_first..chunk.len() - 1], &chunk[n_first + 1..]);
    for (inputs, targets) in inputs.chunks(n_batch).zip(targets.chunks(n_batch)) {
        if !go_on() {
            return Ok(false);
        }
        session.score(inputs, |i, logits| estimate.add(surprise(logits, targets[i])))?;
    }
    Ok(true)
}

/// `-ln p(token)`.
pub(super) fn surprise(logits: &[f32], token: TokenId) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    sum.ln() - f64::from(logits[token as usize] - max)
}

/// The mean of `-ln p`, and how far it can be trusted.
#[derive(Debug, Default)]
struct Estimate {
    n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Estimate {
    fn add(&mut self, surprise: f64) {
        self.n += 1;
        self.sum += surprise;
        self.sum_of_squares += surprise * surprise;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Standard error of the perplexity: that of the mean, carried through the exponential.
    fn error(&self) -> f64 {
        let variance = (self.sum_of_squares / self.n as f64 - self.mean().powi(2)).max(0.0);
        self.perplexity() * (variance / (self.n as f64 - 1.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess_is_as_perplexed_as_there_are_choices() {
        let mut estimate = Estimate::default();
        (0..5).for_each(|token| estimate.add(surprise(&[3.5; 64], token)));
        assert!((estimate.perplexity() - 64.0).abs() < 1e-9 && estimate.error() < 1e-6, "{estimate:?}");
    }

    #[test]
    fn surprise_is_the_log_of_the_share() {
        // p = e / (e + 1 + 1/e), and nothing overflows.
        let e = 1f64.exp();
        for shift in [0.0, -80.0, 1e4] {
            let logits = [1.0 + shift, shift, -1.0 + shift];
            assert!((surprise(&logits, 0) + (e / (e + 1.0 + 1.0 / e)).ln()).abs() < 1e-3, "{shift}");
        }
        assert_eq!(surprise(&[0.0, f32::NEG_INFINITY], 0), 0.0);
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        // 1, 2, 3: mean 2, variance 2/3; its error sqrt((2/3) / 2), times e^2.
        let mut estimate = Estimate::default();
        [1.0, 2.0, 3.0].into_iter().for_each(|surprise| estimate.add(surprise));
        assert!((estimate.error() - 2f64.exp() * (1.0f64 / 3.0).sqrt()).abs() < 1e-12, "{estimate:?}");
    }
}
