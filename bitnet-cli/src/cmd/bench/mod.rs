//! `bitnet bench`: how fast prefill and decode are, in llama-bench's terms.
//!
//! Each repetition runs every row once, so that a slow minute of the machine hurts all rows alike; the first
//! repetition warms up and is not counted.

pub(super) mod ceiling;
mod print;
mod row;
mod scratch;
mod stats;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitnet_core::session::DEFAULT_BATCH;
use bitnet_core::synth::{SynthOptions, write_synthetic_to};
use bitnet_core::{Model, Session, SessionOptions, TokenId, WantedLogits};
use serde_json::{Value, json};

use self::ceiling::Ceilings;
use self::row::{Load, Row, Subject, Test};
use self::scratch::Scratch;
use super::load::{self, identity, load_demo, load_model, session_options};
use super::synth;
use crate::args::{BenchArgs, Source, word_of};
use crate::exit::Failure;
use crate::interrupt;
use crate::output::{Output, note};
use crate::progress::Progress;
use crate::receipt::{Receipt, cpu_model};

/// Measures, prints the rows, writes the receipt.
pub(crate) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let reads = || read_by(args);
    let receipt = args.receipt.as_deref().map(|path| Receipt::begin(path, args.force, reads)).transpose()?;
    interrupt::watch();
    let file = ModelFile::of(&args.source, args.quiet)?;
    // Hashing reads the whole file: a model that comes from a disk is in memory before the first sample.
    let identity = receipt.is_some().then(|| file.identity()).transpose()?;
    let start = Instant::now();
    let model = match &file.home {
        Home::File(path) => load_model(path, &args.model)?,
        Home::Scratch(scratch) => load_model(scratch.path(), &args.model)?,
        Home::Binary => load_demo(&args.model)?,
    };
    let (load, bytes_per_token) = until_first_token(&model, args, start)?;
    let mut subject = Subject {
        model: file.name.clone(),
        model_bytes: model.gguf().file_len(),
        isa: model.kernels().isa().name().to_owned(),
        kernels: model.kernels().name(),
        weights: word_of(model.placement()),
        n_batch: args.model.n_batch.unwrap_or(DEFAULT_BATCH),
        cpu: cpu_model(),
        head: if args.head == WantedLogits::All { "full" } else { "screened" },
        ceilings: Ceilings::default(),
        load,
    };
    drop(file);
    if !args.quiet {
        note(format_args!("{}", subject.load));
    }

    let mut rows = plan(&model, args)?;
    subject.ceilings.probe(&rows, bytes_per_token)?;
    let complete = measure(&model, args, &mut rows)?;
    subject.ceilings.probe(&rows, bytes_per_token)?;
    rows.retain(|row| !row.samples.is_empty());
    subject.ceilings.check(&rows)?;
    let answer = print::print(args.format, &rows, &subject);
    let told = if rows.is_empty() { Ok(()) } else { Output::stdout().all(&answer) };
    if !complete {
        return Err(Failure::Interrupted); // a receipt of half a measurement would be believed
    }
    if let Some(mut receipt) = receipt {
        receipt.set("kind", "bench".into());
        receipt.set("model", identity.expect("hashed because a receipt was asked for"));
        receipt.set("synthetic", synthetic(&args.source));
        receipt.set("isa", subject.isa.clone().into());
        receipt.set("kernels", subject.kernels.into());
        receipt.set("weights", subject.weights.into());
        receipt.set("threads", rows.iter().map(|row| row.n_threads).collect::<Vec<_>>().into());
        receipt.set("rows", Value::from_iter(rows.iter().map(|row| row.json(&subject))));
        receipt.write()?; // also if stdout took nothing: what was measured is kept
    }
    told
}

/// The files of this run, which no receipt replaces.
fn read_by(args: &BenchArgs) -> Vec<PathBuf> {
    let model = if let Source::File(path) = &args.source { Some(&**path) } else { None };
    load::files(model, &args.model)
}

/// Decodes one token, and says what it took to get there, and how many bytes of weights were read for it.
fn until_first_token(model: &Model, args: &BenchArgs, start: Instant) -> Result<(Load, u64), Failure> {
    let loaded = start.elapsed();
    let options = SessionOptions { n_ctx: Some(1), ..session_options(&args.model) };
    let mut session = Session::new(model, &options)?;
    session.advance(&tokens(model.config().n_vocab, 1), args.head, || true)?;
    let load = Load { model: loaded, first_token: start.elapsed(), resident_bytes: resident_bytes() };
    Ok((load, model.decode_bytes(args.head, session.sifted(), session.skipped())))
}

/// Resident memory of this process.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn synthetic(source: &Source) -> Value {
    match source {
        Source::File(_) | Source::Demo => Value::Null,
        Source::Synthetic(shape) => json!({ "shape": shape.name(), "seed": SynthOptions::new(*shape).seed }),
    }
}

/// The rows, with the engine's own thread count where none is asked for.
fn plan(model: &Model, args: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let threads = match &*args.threads {
        [] => {
            let options = SessionOptions { n_ctx: Some(1), ..session_options(&args.model) };
            vec![Session::new(model, &options)?.n_threads()]
        }
        given => given.to_vec(),
    };
    Ok(Row::plan(&args.n_prompt, &args.n_gen, &args.depth, &threads))
}

/// Takes every sample of every row; false if Ctrl-C ended it early.
fn measure(model: &Model, args: &BenchArgs, rows: &mut [Row]) -> Result<bool, Failure> {
    let mut n_ctx = BTreeMap::<usize, usize>::new(); // by thread count
    for row in rows.iter() {
        let most = n_ctx.entry(row.n_threads).or_default();
        *most = row.n_ctx().max(*most);
    }
    let mut sessions = BTreeMap::new();
    for (&n_threads, &n_ctx) in &n_ctx {
        let options =
            SessionOptions { n_ctx: Some(n_ctx), n_threads: Some(n_threads), ..session_options(&args.model) };
        sessions.insert(n_threads, Session::new(model, &options)?);
    }
    let tokens = tokens(model.config().n_vocab, n_ctx.values().copied().max().unwrap_or(0));
    let total = (rows.len() * (args.repetitions + 1)) as u64;
    let mut progress = if args.quiet { None } else { Progress::new("bench".into()) };
    let mut n_done = 0;
    for repetition in 0..=args.repetitions {
        for row in rows.iter_mut() {
            let session = sessions.get_mut(&row.n_threads).expect("a session for each thread count");
            let before = (session.sifted(), session.skipped());
            let Some(time) = sample(session, row, args.head, &tokens)? else { return Ok(false) };
            if repetition > 0 {
                row.samples.push(time);
                row.sifted += session.sifted() - before.0;
                row.skipped += session.skipped() - before.1;
            }
            n_done += 1;
            if let Some(progress) = &mut progress {
                progress.show(n_done, total);
            }
        }
    }
    for row in rows {
        row.bytes_per_token = model.decode_bytes(args.head, row.sifted, row.skipped);
        row.macs = match row.test {
            Test::Prefill(n) => model.prompt_macs(n),
            Test::Decode(n) => n as u64 * model.prompt_macs(1),
        };
    }
    Ok(true)
}

/// One sample; `None` if Ctrl-C came.
fn sample(
    session: &mut Session<'_>,
    row: &Row,
    head: WantedLogits,
    tokens: &[TokenId],
) -> Result<Option<Duration>, Failure> {
    let go_on = || !interrupt::pressed();
    session.clear();
    let (depth, test) = tokens[..row.n_ctx()].split_at(row.depth);
    if !depth.is_empty() && !session.advance(depth, head, go_on)? {
        return Ok(None);
    }
    let start = Instant::now();
    match row.test {
        Test::Prefill(_) => {
            if !session.advance(test, head, go_on)? {
                return Ok(None);
            }
        }
        Test::Decode(_) => {
            for &token in test {
                if !session.advance(&[token], head, go_on)? {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(start.elapsed()))
}

/// `n` ids below `n_vocab`, the same every time, spread over the whole embedding matrix (Knuth's multiplier,
/// upper half).
fn tokens(n_vocab: usize, n: usize) -> Vec<TokenId> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        TokenId::try_from((state >> 32) % n_vocab.max(1) as u64).expect("below 2^32")
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// The model to measure.
struct ModelFile {
    home: Home,
    name: String,
}

/// Where its bytes are.
enum Home {
    File(PathBuf),
    /// A synthetic model, for as long as it takes to map it.
    Scratch(Scratch),
    Binary,
}

impl ModelFile {
    fn of(source: &Source, quiet: bool) -> Result<Self, Failure> {
        match source {
            Source::File(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
                Ok(ModelFile { home: Home::File(path.clone()), name })
            }
            Source::Synthetic(shape) => {
                let (scratch, name) = (Scratch::new()?, format!("synthetic {shape}"));
                synth::writing(&name, quiet, |progress| {
                    let options = SynthOptions::new(*shape);
                    write_synthetic_to(scratch.name(), scratch.file(), &options, progress)
                })?;
                Ok(ModelFile { home: Home::Scratch(scratch), name })
            }
            Source::Demo => Ok(ModelFile { home: Home::Binary, name: "demo".into() }),
        }
    }

    /// The model as a receipt names it.
    fn identity(&self) -> Result<Value, Failure> {
        match &self.home {
            Home::File(path) => identity(Some(path)),
            Home::Scratch(scratch) => {
                let mut found = identity(Some(scratch.path()))?;
                found["path"] = self.name.clone().into();
                Ok(found)
            }
            Home::Binary => identity(None),
        }
    }
}
