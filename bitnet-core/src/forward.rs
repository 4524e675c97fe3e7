//! The network for one step: `n` new tokens in, hidden states and logits out.
//!
//! Each product ends with its output's shape; `n` is the number of new tokens. Every sum has one order, so the
//! bits of a position do not depend on `n`.

use crate::TokenId;
use crate::attention::Attention;
use crate::kernels::Kernels;
use crate::kv_cache::KvCache;
use crate::model::config::Config;
use crate::model::head::{Screen, Screening, Sifted};
use crate::model::matrix::{Skipped, Workspace, add_product, add_sparse_product, multiply, multiply_gated};
use crate::model::operand::{Norm, Operand, Wants};
use crate::model::weights::{Layer, wants};
use crate::model::{Model, WantedLogits};
use crate::pages::{Lines, zeros};
use crate::team::{Share, Team};
use crate::trace::trace_timing;

/// The working memory of one session, with room for a batch of tokens.
#[derive(Debug)]
pub struct Activations {
    /// The residual stream, `[n, n_embd]`: of a whole prompt, where the others have a batch of it.
    x: Lines<f32>,
    /// Queries, `[n, n_head * head_dim]`.
    q: Lines<f32>,
    /// Keys, `[n, n_head_kv * head_dim]`.
    k: Lines<f32>,
    /// Values, `[n, n_head_kv * head_dim]`.
    v: Lines<f32>,
    /// Attention output, `[n, n_head * head_dim]`.
    attn: Lines<f32>,
    /// Attention scores of a single position, `[n_head, n_ctx padded to 32]`.
    scores: Lines<f32>,
    /// Input of `ffn_down`, `[n, n_ff]`.
    ff: Lines<f32>,
    operand: Operand,
    /// Cosines of the rotary angles, `[n, n_rot / 2]`.
    cos: Lines<f32>,
    /// Sines of the rotary angles, `[n, n_rot / 2]`.
    sin: Lines<f32>,
    /// `[n_vocab]`
    logits: Vec<f32>,
    work: Workspace,
    screening: Screening,
    /// The forms of activations that the layers' matrices read.
    wants: Wants,
}

/// Which new tokens need the last block's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// Every one.
    All,
    /// The last one.
    Last,
}

/// One step of a session: where it runs, and what it reads and writes.
pub(crate) struct Step<'a> {
    pub(crate) model: &'a Model,
    pub(crate) team: &'a Team,
    pub(crate) cache: &'a mut KvCache,
    pub(crate) act: &'a mut Activations,
    /// Position of the next token.
    pub(crate) pos: usize,
}

impl Activations {
    /// Working memory for batches of up to `n_batch` tokens in a context of `n_ctx`; `None` if there is not
    /// enough.
    pub(crate) fn new(model: &Model, n_batch: usize, n_ctx: usize) -> Option<Activations> {
        let c = model.config();
        let batch_of = |width: usize| Lines::zeroed(n_batch.checked_mul(width)?);
        let widest = c.n_embd.max(c.n_ff).max(c.n_embd_attn());
        let layers = &model.weights().layers;
        let prepared = layers.iter().map(|w| w.prepared_bytes(model.kernels(), n_batch)).max().unwrap_or(0);
        Some(Activations {
            x: batch_of(c.n_embd)?,
            q: batch_of(c.n_embd_attn())?,
            k: batch_of(c.n_embd_kv())?,
            v: batch_of(c.n_embd_kv())?,
            attn: batch_of(c.n_embd_attn())?,
            scores: Lines::zeroed(c.n_head.checked_mul(n_ctx.next_multiple_of(crate::ops::softmax::PAD))?)?,
            ff: batch_of(c.n_ff)?,
            operand: Operand::with_capacity(model.kernels(), n_batch, widest)?,
            cos: batch_of(c.rope.n_rot / 2)?,
            sin: batch_of(c.rope.n_rot / 2)?,
            logits: zeros(c.n_vocab)?,
            work: Workspace::with_room(prepared)?,
            screening: Screening::default(),
            wants: wants(layers.iter().flat_map(Layer::matrices)),
        })
    }

    /// Counters of the screened head.
    pub(crate) fn sifted(&self) -> Sifted {
        self.screening.sifted()
    }

    /// Weights that decode steps did not have to read, so far.
    pub(crate) fn skipped(&self) -> Skipped {
        self.work.skipped()
    }

    /// The logits of the last call of [`Step::logits`].
    pub(crate) fn last_logits(&self) -> &[f32] {
        &self.logits
    }
}

impl Step<'_> {
    /// Rows of the embedding matrix become the residual stream: `[n, n_embd]`.
    pub(crate) fn embed(&mut self, tokens: &[TokenId]) {
        let (w, c) = (self.model.weights(), self.model.config());
        self.act.x.resize(tokens.len() * c.n_embd);
        for (x, &token) in self.act.x.chunks_exact_mut(c.n_embd).zip(tokens) {
            w.token_embd.dequantize_row(token as usize, x);
        }
    }

    /// Runs every block on the tokens that [`Step::embed`] laid out, `n_batch` of them at a time. Asks `go_on` before
    /// each batch, and returns `false` once it said no.
    pub(crate) fn forward(
        &mut self,
        n_batch: usize,
        outputs: Outputs,
        go_on: &mut (dyn FnMut() -> bool + Send),
    ) -> bool {
        let n_embd = self.model.config().n_embd;
        // The stream of the whole prompt is taken out and put back, so that a batch can be borrowed from it.
        let mut x = std::mem::take(&mut self.act.x);
        let mut n_left = x.len() / n_embd;
        let mut done = true;
        for x in x.chunks_mut(n_batch * n_embd) {
            if !go_on() {
                done = false;
                break;
            }
            let n = x.len() / n_embd;
            n_left -= n;
            let first = match outputs {
                Outputs::All => 0,
                Outputs::Last if n_left == 0 => n - 1,
                Outputs::Last => n,
            };
            self.batch(x, first);
        }
        self.act.x = x;
        done
    }

    /// Runs every block on one batch `x`: `[n, n_embd]`. In the last block, tokens before `first` only store their keys
    /// and values, which later tokens read.
    fn batch(&mut self, x: &mut [f32], first: usize) {
        let c = self.model.config();
        let n = x.len() / c.n_embd;
        self.act.work.step(n);
        let half = c.rope.n_rot / 2;
        for t in 0..n {
            let angles = t * half..(t + 1) * half;
            c.rope.angles(self.pos + t, &mut self.act.cos[angles.clone()], &mut self.act.sin[angles]);
        }
        let layers = &self.model.weights().layers;
        for (i, layer) in layers.iter().enumerate() {
            let first = if i + 1 == layers.len() { first } else { 0 };
            self.attention(x, i, layer, first);
            if first < n {
                self.feed_forward(&mut x[first * c.n_embd..], layer);
            }
        }
        self.pos += n;
    }

    #[trace_timing(attention, layer = i, pos = self.pos)]
    fn attention(&mut self, x: &mut [f32], i: usize, w: &Layer, first: usize) {
        let (c, team, kernels) = (self.model.config(), self.team, self.model.kernels());
        let n = x.len() / c.n_embd;
        let Activations { q, k, v, attn, scores, operand, cos, sin, work, wants, .. } = &mut *self.act;
        let (q, k, v) =
            (&mut q[..n * c.n_embd_attn()], &mut k[..n * c.n_embd_kv()], &mut v[..n * c.n_embd_kv()]);
        let (cos, sin) = (&cos[..n * c.rope.n_rot / 2], &sin[..n * c.rope.n_rot / 2]);

        operand.load(team, kernels, x, rms(&w.attn_norm, c), c.n_embd, *wants);
        multiply(team, kernels, [(&w.attn_q, q), (&w.attn_k, k), (&w.attn_v, v)], operand, work);
        rotate_and_round(team, kernels, q, cos, sin, c); //                      [n, n_head * head_dim]
        rotate_and_round(team, kernels, k, cos, sin, c); //                      [n, n_head_kv * head_dim]
        self.cache.store((team, kernels), i, self.pos, k, v);

        // From here on, only tokens whose output is needed.
        let (x, q) = (&mut x[first * c.n_embd..], &q[first * c.n_embd_attn()..]);
        if x.is_empty() {
            return;
        }
        let attn = &mut attn[..q.len()];
        let pos = self.pos + first;
        let attention = Attention { config: c, kernels, cache: self.cache, layer: i, pos, q };
        attention.run(team, attn, scores); //                                    [n, n_head * head_dim]

        operand.load(team, kernels, attn, sub_norm(&w.attn_sub_norm, c), c.n_embd_attn(), *wants);
        add_product(team, kernels, (&w.attn_output, x), operand, work); //       [n, n_embd]
    }

    #[trace_timing]
    fn feed_forward(&mut self, x: &mut [f32], w: &Layer) {
        let (c, team, kernels) = (self.model.config(), self.team, self.model.kernels());
        let n = x.len() / c.n_embd;
        let Activations { ff, operand, work, wants, .. } = &mut *self.act;
        let ff = &mut ff[..n * c.n_ff];

        operand.load(team, kernels, x, rms(&w.ffn_norm, c), c.n_embd, *wants);
        let gated = (&w.ffn_gate, &w.ffn_up, &mut *ff); //                       [n, n_ff]
        multiply_gated(team, kernels, c.activation, gated, operand, work);
        operand.load(team, kernels, ff, sub_norm(&w.ffn_sub_norm, c), c.n_ff, *wants);
        add_sparse_product(team, kernels, (&w.ffn_down, x), operand, work); //   [n, n_embd]
    }

    /// Logits of new token `t`, `[n_vocab]`: all of them, or those that may be among the largest, the rest minus
    /// infinity.
    pub(crate) fn logits(&mut self, t: usize, wanted: WantedLogits, screen: Option<&Screen>) {
        let (w, c, team, kernels) =
            (self.model.weights(), self.model.config(), self.team, self.model.kernels());
        let Activations { x, operand, logits, screening, work, .. } = &mut *self.act;
        let x = &x[t * c.n_embd..][..c.n_embd];
        operand.load(team, kernels, x, rms(&w.output_norm, c), c.n_embd, wants([w.head()]));
        match (wanted, screen) {
            (WantedLogits::Top(k), Some(screen)) => {
                screen.top(k, w.head(), (team, kernels), logits, operand.rounded(0), screening);
            }
            _ => multiply(team, kernels, [(w.head(), logits)], operand, work),
        }
    }
}

fn rms<'a>(weight: &'a [f32], c: &Config) -> Norm<'a> {
    Norm::Rms { weight, eps: c.norm_eps }
}

fn sub_norm<'a>(weight: &'a Option<Vec<f32>>, c: &Config) -> Norm<'a> {
    weight.as_ref().map_or(Norm::None, |weight| rms(weight, c))
}

/// Rotates every head of every token by the angles of its position, and rounds it to f16.
fn rotate_and_round(team: &Team, kernels: &Kernels, x: &mut [f32], cos: &[f32], sin: &[f32], c: &Config) {
    let half = c.rope.n_rot / 2;
    let width = x.len() / (cos.len() / half);
    team.split([Share { values: x, unit: width }], |[x]| {
        for (t, x) in (x.first / width..).zip(x.values.chunks_exact_mut(width)) {
            for head in x.chunks_exact_mut(c.head_dim) {
                kernels.rotate(head, &cos[t * half..][..half], &sin[t * half..][..half], c.rope.pairing);
            }
            kernels.round_to_f16(x);
        }
    });
}
