//! `bitnet eval`: how many questions a model answers exactly.

mod question;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bitnet_core::model::WantedLogits;
use bitnet_core::{Error, Sampler, SamplerOptions, Session, TokenId, Tokenizer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::question::Question;
use super::generate::Voice;
use super::load::{self, Loaded, identity, load, session_options};
use crate::args::EvalArgs;
use crate::exit::{Failure, complain};
use crate::interrupt;
use crate::output::{Output, cell, escaped};
use crate::progress::Progress;
use crate::receipt::{self, Receipt};

/// The task that is all tasks together.
const TOTAL: &str = "total";

/// Asks every question, prints the scores, and fails if one is too low.
pub(crate) fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let reads = || read_by(args);
    let receipt = args.receipt.as_deref().map(|path| Receipt::begin(path, args.force, reads)).transpose()?;
    let (questions, data) = questions(args)?;
    let mut scores = Scores::of(&questions);
    if let Some((task, _)) = args.least.iter().find(|(task, _)| scores.find(task).is_none()) {
        let known: Vec<&str> = scores.list.iter().map(|score| &*score.task).collect();
        let what = format!("--min {}", task.escape_debug());
        return Err(Failure::misuse(&what, &format!("no such task; expected one of {}", known.join(", "))));
    }
    let Loaded { model, tokenizer, .. } = load(&args.model)?;
    let Some(tokenizer) = &tokenizer else {
        return Err(Failure::misuse("eval", "the model has no vocabulary; give --tokenizer FILE"));
    };
    let session = Session::new(&model, &session_options(&args.model))?;
    let mut examinee = Examinee { session, tokenizer, hash: Sha256::new() };
    // All of them before the first is asked: what would fail after minutes is refused now.
    let prompts: Vec<Vec<TokenId>> = questions
        .iter()
        .map(|question| examinee.tokens(question).map_err(|e| wrong(&args.data, question, e)))
        .collect::<Result<_, _>>()?;
    interrupt::watch();
    let mut progress = if args.quiet { None } else { Progress::new("eval".into()) };
    let mut misses = Vec::new();
    for (i, (question, prompt)) in questions.iter().zip(prompts).enumerate() {
        let reply = examinee.ask(question, prompt).map_err(|e| wrong(&args.data, question, e))?;
        let Some(Reply { text, ended }) = reply else { return Err(Failure::Interrupted) };
        let right = ended && text == question.answer;
        scores.count(&question.task, right);
        if !right {
            misses.push((question, text, ended));
        }
        if let Some(progress) = &mut progress {
            progress.show(i as u64 + 1, questions.len() as u64);
        }
    }
    drop(progress);
    let hash: String = examinee.hash.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
    let misses = Value::from_iter(misses.iter().map(|(question, text, ended)| {
        let Question { task, prompt, answer, .. } = question;
        json!({ "task": task, "prompt": prompt, "answer": answer, "found": text, "ended": ended })
    }));
    let answer = if args.json {
        let body = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model.gguf().path().to_string_lossy(),
            "scores": scores.json(&args.least),
            "misses": misses,
            "logits_sha256": hash,
        });
        format!("{body}\n")
    } else {
        scores.table()
    };
    // Neither is lost with the other: the answer is told first, and the receipt written even so.
    let told = Output::stdout().before_verdict(&answer);
    if let Some(mut receipt) = receipt {
        receipt.set("kind", "eval".into());
        receipt.set("model", identity(args.model.model.as_deref())?);
        receipt.set("data", data);
        receipt.set("isa", model.kernels().isa().name().into());
        receipt.set("threads", examinee.session.n_threads().into());
        receipt.set("scores", scores.json(&args.least));
        receipt.set("misses", misses);
        receipt.set("logits_sha256", hash.into());
        receipt.write()?;
    }
    told?;
    scores.check(&args.least)
}

/// The files of this run, which no receipt replaces.
fn read_by(args: &EvalArgs) -> Vec<PathBuf> {
    let mut files = load::files(args.model.model.as_deref(), &args.model);
    files.push(args.data.clone());
    files
}

/// The questions, and what a receipt says of them: of the bytes that were read, since a pipe is read once.
fn questions(args: &EvalArgs) -> Result<(Vec<Question>, Value), Failure> {
    let bytes = question::read(&args.data)?;
    let questions = question::parse(&args.data, &bytes)?;
    let named = args.receipt.is_some().then(|| receipt::identity(&args.data, &*bytes)).transpose()?;
    Ok((questions, named.unwrap_or_default()))
}

/// What is wrong with a question, by its place in the file, which the engine does not know.
fn wrong(data: &Path, question: &Question, failure: Failure) -> Failure {
    let what = format!("--data {}: line {}", data.display(), question.line);
    match failure {
        Failure::Engine(Error::ContextFull { wanted, n_ctx }) => {
            complain(&format!(
                "{what}: expected at most {n_ctx} tokens with the reply, found {wanted} (see --ctx-size)"
            ));
            Failure::Said(1)
        }
        Failure::Engine(e @ Error::Invalid { .. }) => Failure::misuse(&what, &e.to_string()),
        other => other,
    }
}

/// What a question was answered.
struct Reply {
    text: String,
    /// By an end token; without one the text goes on.
    ended: bool,
}

/// A model under examination.
struct Examinee<'m, 't> {
    session: Session<'m>,
    tokenizer: &'t Tokenizer,
    /// Of the bits of every logit at every choice.
    hash: Sha256,
}

impl Examinee<'_, '_> {
    /// The tokens of a question, if the context holds them.
    fn tokens(&self, question: &Question) -> Result<Vec<TokenId>, Failure> {
        let mut tokens: Vec<TokenId> =
            self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos()).into_iter().collect();
        tokens.extend(self.tokenizer.encode_with_specials(&question.prompt)?);
        match (tokens.len(), self.session.n_ctx()) {
            (0, _) => {
                let reason = "expected some text, since this model adds no start token";
                Err(Error::Invalid { what: "prompt".into(), reason: reason.into() }.into())
            }
            (wanted, n_ctx) if wanted > n_ctx => Err(Error::ContextFull { wanted, n_ctx }.into()),
            _ => Ok(tokens),
        }
    }

    /// The reply to a question of these tokens; `None` if Ctrl-C came.
    fn ask(&mut self, question: &Question, mut pending: Vec<TokenId>) -> Result<Option<Reply>, Failure> {
        // A token is a byte at least: whoever has said more than this many is wrong already.
        let most = question.answer.len() + 4;
        let mut sampler = Sampler::new(SamplerOptions::greedy())?;
        let mut voice = Voice::new(Some(self.tokenizer), Vec::new())?;
        let mut ended = false;
        self.session.clear();
        for _ in 0..=most {
            if !self.session.advance(&pending, WantedLogits::All, || !interrupt::pressed())? {
                return Ok(None);
            }
            let logits = self.session.last_logits();
            logits.iter().for_each(|logit| self.hash.update(logit.to_bits().to_le_bytes()));
            let token = sampler.sample(logits);
            if self.tokenizer.end_tokens().contains(&token) {
                ended = true;
                break;
            }
            voice.say(token);
            pending = vec![token];
        }
        voice.finish();
        Ok(Some(Reply { text: voice.text, ended }))
    }
}

/// How much of a task is right.
#[derive(Debug)]
struct Score {
    task: String,
    n_right: usize,
    n_asked: usize,
}

impl Score {
    fn percent(&self) -> f64 {
        100.0 * self.n_right as f64 / self.n_asked.max(1) as f64
    }
}

/// Tasks in the order of the file, then all of them.
#[derive(Default)]
struct Scores {
    list: Vec<Score>,
    /// Each task's place among them.
    places: HashMap<String, usize>,
}

impl Scores {
    /// Every task with nothing asked yet.
    fn of(questions: &[Question]) -> Self {
        let Scores { mut list, mut places } = Scores::default();
        for task in questions.iter().map(|question| &*question.task).chain([TOTAL]) {
            if !places.contains_key(task) {
                places.insert(task.to_owned(), list.len());
                list.push(Score { task: task.to_owned(), n_right: 0, n_asked: 0 });
            }
        }
        Scores { list, places }
    }

    fn find(&self, task: &str) -> Option<&Score> {
        self.places.get(task).map(|&place| &self.list[place])
    }

    /// Counts a question of `task`, which is one of those that all were made of.
    fn count(&mut self, task: &str, right: bool) {
        for task in [task, TOTAL].into_iter().take(if task == TOTAL { 1 } else { 2 }) {
            let score = &mut self.list[self.places[task]];
            score.n_asked += 1;
            score.n_right += usize::from(right);
        }
    }

    fn table(&self) -> String {
        let names: Vec<String> = self.list.iter().map(|score| cell(escaped(&score.task))).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let lines = self.list.iter().zip(&names).map(|(score, task)| {
            let Score { n_right, n_asked, .. } = score;
            format!("{task:width$}  {n_right:>7} of {n_asked:<7} {:6.2} %\n", score.percent())
        });
        lines.collect()
    }

    fn json(&self, least: &[(String, f64)]) -> Value {
        Value::from_iter(self.list.iter().map(|score| {
            let least = least.iter().filter(|(task, _)| *task == score.task).map(|(_, percent)| *percent);
            json!({
                "task": score.task,
                "right": score.n_right,
                "asked": score.n_asked,
                "percent": score.percent(),
                "min": least.reduce(f64::max),
            })
        }))
    }

    /// Says which tasks fell short.
    fn check(&self, least: &[(String, f64)]) -> Result<(), Failure> {
        let mut short = false;
        for (task, percent) in least {
            let score = self.find(task).expect("every task of --min was found before the first question");
            if score.percent() < *percent {
                complain(&format!("{task}: {:.2} % are right, --min asks for {percent} %", score.percent()));
                short = true;
            }
        }
        if short { Err(Failure::Said(5)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Scores {
        let ask = |task: &str| Question {
            line: 1,
            task: task.into(),
            prompt: String::new(),
            answer: String::new(),
        };
        let mut scores = Scores::of(&[ask("b"), ask("a"), ask("b")]);
        [("b", true), ("a", false), ("b", true)]
            .into_iter()
            .for_each(|(task, right)| scores.count(task, right));
        scores
    }

    #[test]
    fn tasks_keep_their_order_and_the_total_is_last() {
        let table = scores().table();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["b", "2", "of", "2", "100.00", "%"]);
        assert_eq!(lines[1], ["a", "0", "of", "1", "0.00", "%"]);
        assert_eq!(lines[2], ["total", "2", "of", "3", "66.67", "%"]);
    }

    #[test]
    fn a_task_may_be_called_total_or_have_a_name_longer_than_a_line() {
        let ask = |task: &str| Question {
            line: 1,
            task: task.into(),
            prompt: String::new(),
            answer: String::new(),
        };
        let long = "x".repeat(70_000);
        let mut scores = Scores::of(&[ask(TOTAL), ask(&long)]);
        scores.count(TOTAL, true);
        scores.count(&long, false);
        let counts: Vec<_> = scores.list.iter().map(|score| (score.n_right, score.n_asked)).collect();
        assert_eq!(counts, [(1, 2), (0, 1)]);
        assert!(scores.table().lines().all(|line| line.len() < 200));
    }

    #[test]
    fn a_score_may_equal_what_is_asked_for() {
        let check = |least: &[(&str, f64)]| {
            let least: Vec<_> = least.iter().map(|(task, percent)| ((*task).to_owned(), *percent)).collect();
            scores().check(&least)
        };
        assert!(check(&[("b", 100.0), ("a", 0.0), ("total", 66.6)]).is_ok());
        assert!(matches!(check(&[("b", 100.0), ("total", 66.7)]), Err(Failure::Said(5))));
    }
}
