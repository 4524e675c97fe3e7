//! Keys and values of past positions, in f16.
//!
//! ```text
//! keys    [n_layer, n_head_kv, n_ctx, head_dim]          a key is one row
//! values  [n_layer, n_head_kv, n_ctx / 32, head_dim, 32] 32 positions of one dimension are one row
//! ```
//!
//! Attention sums values over positions in 32 lanes, lane = position mod 32, so a row of values is exactly what
//! one step of that sum reads. Lanes past the last position of a tile are zero.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::model::Config;
use crate::ops::softmax::PAD;

/// The cache of one session.
#[derive(Debug)]
pub struct KvCache {
    // As bits, because zeroed memory then comes from the system untouched, and is used as positions are.
    keys: Vec<u16>,
    values: Vec<u16>,
    n_head_kv: usize,
    head_dim: usize,
    n_ctx: usize,
}

impl KvCache {
    /// An empty cache for `n_ctx` positions; `None` if that is more memory than can be counted.
    #[must_use]
    pub fn new(config: &Config, n_ctx: usize) -> Option<KvCache> {
        let n_ctx = n_ctx.checked_next_multiple_of(PAD)?;
        let n = config.n_layer.checked_mul(config.n_embd_kv())?.checked_mul(n_ctx)?;
        n.checked_mul(4).filter(|&bytes| bytes < isize::MAX as usize)?;
        let zeroed = || bytemuck::allocation::try_zeroed_vec::<u16>(n).ok();
        let (keys, values) = (zeroed()?, zeroed()?);
        Some(KvCache { keys, values, n_head_kv: config.n_head_kv, head_dim: config.head_dim, n_ctx })
    }

    /// Bytes a full cache takes.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 2
    }

    /// Stores `k` and `v` of consecutive positions from `pos` on: `[n, n_head_kv * head_dim]` each.
    ///
    /// # Panics
    /// If the positions exceed the cache.
    pub fn store(&mut self, layer: usize, pos: usize, k: &[f32], v: &[f32]) {
        let (heads, hd) = (self.n_head_kv, self.head_dim);
        for (t, (k, v)) in k.chunks_exact(heads * hd).zip(v.chunks_exact(heads * hd)).enumerate() {
            let pos = pos + t;
            assert!(pos < self.n_ctx, "position {pos} of a cache for {}", self.n_ctx);
            for (head, (k, v)) in k.chunks_exact(hd).zip(v.chunks_exact(hd)).enumerate() {
                let base = (layer * heads + head) * self.n_ctx * hd;
                let row: &mut [f16] = self.keys[base + pos * hd..][..hd].reinterpret_cast_mut();
                row.convert_from_f32_slice(k);

                let tile = &mut self.values[base + pos / PAD * PAD * hd..][..PAD * hd];
                let (rows, _) = tile.as_chunks_mut::<PAD>();
                if pos.is_multiple_of(PAD) {
                    rows.fill([0; PAD]); // what an earlier text left here
                }
                for (row, &v) in rows.iter_mut().zip(v) {
                    row[pos % PAD] = f16::from_f32(v).to_bits();
                }
            }
        }
    }

    /// Forgets positions from `pos` on. Only the tile that stays in use must be cleaned; later ones are cleaned
    /// when their first position is stored.
    pub fn truncate(&mut self, pos: usize) {
        let lane = pos % PAD;
        if lane == 0 || pos >= self.n_ctx {
            return;
        }
        for head in self.values.chunks_exact_mut(self.n_ctx * self.head_dim) {
            let tile = &mut head[pos / PAD * PAD * self.head_dim..][..PAD * self.head_dim];
            for row in tile.as_chunks_mut::<PAD>().0 {
                row[lane..].fill(0);
            }
        }
    }

    /// The first `n` keys of one head: `[n, head_dim]`.
    #[must_use]
    pub fn keys(&self, layer: usize, head: usize, n: usize) -> &[f16] {
        self.keys[(layer * self.n_head_kv + head) * self.n_ctx * self.head_dim..][..n * self.head_dim]
            .reinterpret_cast()
    }

    /// The tiles that hold the first `n` values of one head: `[n / 32 rounded up, head_dim, 32]`.
    #[must_use]
    pub fn values(&self, layer: usize, head: usize, n: usize) -> &[f16] {
        let n_pad = n.next_multiple_of(PAD);
        self.values[(layer * self.n_head_kv + head) * self.n_ctx * self.head_dim..][..n_pad * self.head_dim]
            .reinterpret_cast()
    }
}
