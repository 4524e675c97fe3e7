//! `bitnet inspect`: what a model file holds and what it needs, from its header alone.
//!
//! The file is mapped and only its header is touched, so that a large model answers as fast as a small one; unless the
//! weights are asked for.
//!
//! - `verify`: every ternary weight, looked at
//! - `layout`: in which order the codes of I2_S tensors stand
//! - `text`, `json`, `show`: the answer

mod json;
mod layout;
mod show;
mod text;
mod verify;

use std::collections::BTreeMap;

use bitnet_core::gguf::{Gguf, TensorInfo};
use bitnet_core::kernels::Kernels;
use bitnet_core::kv_cache::KvCache;
use bitnet_core::model::Config;
use bitnet_core::model::matrix::Plan;
use bitnet_core::quant::ternary::Reading;

use self::layout::LayoutTest;
use self::verify::Verified;
use super::load::{file, reading};
use crate::args::InspectArgs;
use crate::demo;
use crate::exit::{Failure, complain};
use crate::output::Output;

/// The exit code when no order of codes makes sense: a check fell short.
const NO_ORDER: u8 = 5;

/// Prints what the file holds, and what was found in it.
pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let open = || match &args.model {
        Some(path) => file(path),
        None => demo::open(),
    };
    let gguf = open()?;
    let reading = reading(&args.reading)?;
    let mut report = Report::of(&gguf, args.n_ctx, &reading);
    report.verified = args.verify.then(|| Verified::of(&gguf, &reading, args.quiet));
    // What is known to be damaged cannot be run.
    if args.layout_test && report.verified.as_ref().is_none_or(Verified::is_sound) {
        report.layout = Some(LayoutTest::of(args, &gguf, &reading, open)?);
    }
    Output::stdout().before_verdict(&if args.json { json::json(&report) } else { text::text(&report) })?;
    if let Some(fault) = report.verified.and_then(Verified::into_fault) {
        return Err(fault.into());
    }
    if report.layout.is_some_and(|test| test.plausible().is_none()) {
        complain(
            "--layout-test: neither order of I2_S codes predicts a text clearly better than a blind guess",
        );
        return Err(Failure::Said(NO_ORDER));
    }
    Ok(())
}

/// What both forms of the answer say.
struct Report<'a> {
    gguf: &'a Gguf,
    tensors: Vec<Line<'a>>,
    /// By type name.
    totals: BTreeMap<&'static str, Total>,
    all: Total,
    /// Bytes of weights that one decode step reads.
    bytes_per_token: u64,
    /// What running it takes, or why this engine cannot.
    needs: Result<Needs, bitnet_core::Error>,
    /// If it was asked for, as the next.
    verified: Option<Verified<'a>>,
    layout: Option<LayoutTest>,
}

/// A tensor, and what this engine would do with it.
struct Line<'a> {
    info: &'a TensorInfo,
    /// `None` for vectors and for what is not multiplied.
    plan: Option<Plan>,
}

/// Memory that running the model takes.
struct Needs {
    n_ctx: usize,
    /// `None`: more than this machine can address.
    kv_cache_bytes: Option<usize>,
}

/// Sums over tensors.
#[derive(Clone, Copy, Default)]
struct Total {
    tensors: u64,
    weights: u64,
    bytes: u64,
}

impl<'a> Report<'a> {
    fn of(gguf: &'a Gguf, n_ctx: Option<usize>, reading: &Reading) -> Self {
        let kernels = Kernels::detect();
        let plan = |info: &TensorInfo| {
            let [rows, cols] = info.matrix()?;
            Plan::of(info.ty, rows, cols, reading, kernels)
        };
        let tensors: Vec<Line<'a>> =
            gguf.tensors().iter().map(|info| Line { info, plan: plan(info) }).collect();
        let mut totals = BTreeMap::<_, Total>::new();
        let mut all = Total::default();
        for info in gguf.tensors() {
            totals.entry(info.ty.name()).or_default().add(info);
            all.add(info);
        }
        Report {
            gguf,
            totals,
            all,
            bytes_per_token: bytes_per_token(&tensors),
            tensors,
            needs: Config::from_gguf(gguf).map(|config| {
                let n_ctx = n_ctx.unwrap_or(config.n_ctx_train);
                // An empty cache is memory the system has promised, not memory in use.
                let kv_cache_bytes = KvCache::new(&config, n_ctx).map(|cache| cache.n_bytes());
                Needs { n_ctx, kv_cache_bytes }
            }),
            verified: None,
            layout: None,
        }
    }
}

/// Bytes of weights that one decode step reads: all of them, but of an embedding matrix that is not also the head
/// just one row.
fn bytes_per_token(tensors: &[Line<'_>]) -> u64 {
    let has_head = tensors.iter().any(|line| line.info.name == "output.weight");
    let read = tensors.iter().map(|Line { info, plan }| {
        let rows = info.shape.first().map_or(1, |&rows| rows.max(1) as u64);
        let n_bytes = plan.as_ref().map_or(info.n_bytes, |plan| plan.n_bytes);
        if has_head && info.name == "token_embd.weight" { n_bytes / rows } else { n_bytes }
    });
    read.fold(0, u64::saturating_add)
}

impl Total {
    fn add(&mut self, info: &TensorInfo) {
        self.tensors += 1;
        self.weights = self.weights.saturating_add(info.n_elements());
        self.bytes = self.bytes.saturating_add(info.n_bytes);
    }
}
