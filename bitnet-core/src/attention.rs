//! Attention of new positions over all that came before.

use std::cell::RefCell;

use crate::kernels::Kernels;
use crate::kv_cache::KvCache;
use crate::model::Config;
use crate::ops::softmax::PAD;
use crate::pages::Lines;
use crate::team::{Share, Team};
use crate::trace::trace_timing;

thread_local! {
    /// A thread's scores for the position it works on.
    static SCORES: RefCell<Lines<f32>> = RefCell::new(Lines::default());
}

/// Everything attention reads: the queries of `n` consecutive positions and the cache that holds their keys.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Widths and head counts.
    pub config: &'a Config,
    /// The kernels.
    pub kernels: &'a Kernels,
    /// Keys and values, those of the new positions included.
    pub cache: &'a KvCache,
    /// Which block.
    pub layer: usize,
    /// The first new position.
    pub pos: usize,
    /// `[n, n_head * head_dim]`, rotated, values an f16 can hold.
    pub q: &'a [f32],
}

impl Attention<'_> {
    /// `out = softmax(q k / sqrt(head_dim)) v` for every new position: `[n, n_head * head_dim]`.
    ///
    /// `scores` is scratch for a single position: `[n_head, n_ctx padded to 32]`. With several positions, each
    /// thread uses scratch of its own.
    #[trace_timing(attend, layer = self.layer, pos = self.pos)]
    pub fn run(&self, team: &Team, out: &mut [f32], scores: &mut [f32]) {
        let width = self.config.n_embd_attn();
        if out.len() == width {
            let n_pad = (self.pos + 1).next_multiple_of(PAD);
            let scores = &mut scores[..self.config.n_head * n_pad];
            let shares =
                [Share { values: out, unit: self.config.head_dim }, Share { values: scores, unit: n_pad }];
            team.split(shares, |[out, scores]| self.heads(0, out.first, out.values, scores.values));
        } else {
            // Later positions cost more, so threads take one at a time, and none is left with all the late ones.
            let tokens = out.chunks_exact_mut(width).enumerate().collect();
            team.each(tokens, |(t, out): (usize, &mut [f32])| {
                let n = self.group() * (self.pos + t + 1).next_multiple_of(PAD);
                SCORES.with_borrow_mut(|scores| {
                    scores.resize(n);
                    self.heads(t, 0, out, scores);
                });
            });
        }
    }

    /// How many heads share their keys and values.
    fn group(&self) -> usize {
        self.config.n_head / self.config.n_head_kv
    }

    /// Attention of some heads at new position `t`: those whose output begins at value `first`.
    ///
    /// Heads that share their keys and values are taken together, so that these are read once for all of them. The next
    /// such heads use the same part of `scores` again.
    fn heads(&self, t: usize, first: usize, out: &mut [f32], scores: &mut [f32]) {
        let Config { head_dim, n_head, .. } = *self.config;
        let n_pos = self.pos + t + 1;
        let n_pad = n_pos.next_multiple_of(PAD);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let queries = &self.q[t * n_head * head_dim..][..n_head * head_dim];
        let group = self.group();
        let mut head = first / head_dim;
        let mut out = out;
        while !out.is_empty() {
            let n = (group - head % group).min(out.len() / head_dim);
            let (now, later) = out.split_at_mut(n * head_dim);
            let p = &mut scores[..n * n_pad];
            let q = &queries[head * head_dim..][..n * head_dim];

            let keys = self.cache.keys(self.layer, head / group, n_pos);
            self.kernels.attn_scores(p, q, keys, head_dim, scale); //            [n, n_pad]
            for p in p.chunks_exact_mut(n_pad) {
                self.kernels.softmax(p);
            }
            self.kernels.round_to_f16(p);
            let values = self.cache.values(self.layer, head / group, n_pos);
            self.kernels.attn_mix(now, values, p); //                           [n, head_dim]

            (out, head) = (later, head + n);
        }
    }
}
