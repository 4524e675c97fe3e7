//! `bitnet inspect`: what a model file holds and what it needs, from its header alone.
//!
//! The file is mapped and only its header is touched, so that a large model answers as fast as a small one.

mod json;
mod show;
mod text;

use std::collections::BTreeMap;

use bitnet_core::gguf::{Access, Gguf, TensorInfo, TensorType};
use bitnet_core::kernels::Kernels;
use bitnet_core::kv_cache::KvCache;
use bitnet_core::model::Config;
use bitnet_core::quant::i2s::Flavour;

use super::traffic::bytes_per_token;
use crate::args::InspectArgs;
use crate::demo;
use crate::exit::Failure;
use crate::output::Output;

/// Prints what the file holds.
pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let gguf = match &args.model {
        Some(path) => Gguf::open(path, Access::Map)?,
        None => demo::open()?,
    };
    let report = Report::of(&gguf, args.n_ctx);
    Output::stdout().all(&if args.json { json::json(&report) } else { text::text(&report) })
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
}

/// A tensor, and what this engine would do with it.
struct Line<'a> {
    info: &'a TensorInfo,
    /// Format and kernel as trace lines name them; `None` for vectors and for what is not multiplied.
    dispatch: Option<(&'static str, &'static str)>,
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
    fn of(gguf: &'a Gguf, n_ctx: Option<usize>) -> Self {
        let kernels = Kernels::detect();
        let mut totals = BTreeMap::<_, Total>::new();
        let mut all = Total::default();
        for info in gguf.tensors() {
            totals.entry(info.ty.name()).or_default().add(info);
            all.add(info);
        }
        Report {
            gguf,
            tensors: gguf
                .tensors()
                .iter()
                .map(|info| Line { info, dispatch: dispatch(info, kernels) })
                .collect(),
            totals,
            all,
            bytes_per_token: bytes_per_token(gguf),
            needs: Config::from_gguf(gguf).map(|config| {
                let n_ctx = n_ctx.unwrap_or(config.n_ctx_train);
                // An empty cache is memory the system has promised, not memory in use.
                let kv_cache_bytes = KvCache::new(&config, n_ctx).map(|cache| cache.n_bytes());
                Needs { n_ctx, kv_cache_bytes }
            }),
        }
    }
}

/// The kernel that would multiply this tensor on this CPU.
fn dispatch(info: &TensorInfo, kernels: &Kernels) -> Option<(&'static str, &'static str)> {
    let [_, cols] = *info.shape else { return None };
    match info.ty {
        TensorType::I2_S => Some((Flavour::of(cols)?.name(), kernels.ternary_name())),
        TensorType::F32
        | TensorType::F16
        | TensorType::BF16
        | TensorType::Q8_0
        | TensorType::Q4_0
        | TensorType::Q4_K
        | TensorType::Q6_K => Some((info.ty.name(), kernels.isa().name())),
        _ => None,
    }
}

impl Total {
    fn add(&mut self, info: &TensorInfo) {
        self.tensors += 1;
        self.weights = self.weights.saturating_add(info.n_elements());
        self.bytes = self.bytes.saturating_add(info.n_bytes);
    }
}
