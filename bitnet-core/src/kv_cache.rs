//! Keys and values of past positions, in f16.
//!
//! ```text
//! keys    [n_layer, n_head_kv, n_ctx, head_dim]            a key is one row
//! values  [n_layer, n_head_kv, n_ctx / ROW, head_dim, ROW] ROW positions of one dimension are one row
//! ```
//!
//! Attention sums values over positions in 32 lanes, lane = position mod 32, so 32 consecutive values of a row, a tile,
//! are exactly what one step of that sum reads. A row has several tiles, because single tiles of one dimension would
//! lie a page or more apart, where no hardware prefetches. What stands past the last position is never read as a value
//! (see [`Values`]), so that nothing has to be cleared.

use std::ops::Range;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::kernels::Kernels;
use crate::kernels::values::{ROW, Values};
use crate::model::Config;
use crate::pages::Lines;
use crate::team::{Share, Team};

/// Values of a cache line.
const LINE: usize = 32;

/// The cache of one session.
#[derive(Debug)]
pub struct KvCache {
    // f16 as bits: zeros, for which the system provides memory only as positions are stored.
    keys: Lines<u16>,
    values: Lines<u16>,
    n_head_kv: usize,
    head_dim: usize,
    n_ctx: usize,
}

impl KvCache {
    /// An empty cache for `n_ctx` positions; `None` if that is more memory than there is.
    #[must_use]
    pub fn new(config: &Config, n_ctx: usize) -> Option<KvCache> {
        let n_ctx = n_ctx.checked_next_multiple_of(ROW)?;
        let n = config.n_layer.checked_mul(config.n_embd_kv())?.checked_mul(n_ctx)?;
        n.checked_mul(4).filter(|&bytes| bytes < isize::MAX as usize)?;
        let (keys, values) = (Lines::zeroed(n)?, Lines::zeroed(n)?);
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
    /// If the positions exceed the cache, or `k` and `v` are not equally many whole positions.
    pub fn store(
        &mut self,
        (team, kernels): (&Team, &Kernels),
        layer: usize,
        pos: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let head_dim = self.head_dim;
        let (width, of_head) = (self.n_head_kv * head_dim, self.n_ctx * head_dim);
        let n = k.len() / width;
        assert!(k.len() == n * width && v.len() == k.len(), "keys and values of whole positions");
        assert!(pos + n <= self.n_ctx, "positions up to {} of a cache for {}", pos + n, self.n_ctx);
        let of_layer = layer * self.n_head_kv * of_head..(layer + 1) * self.n_head_kv * of_head;
        // A single position is not worth a cut.
        let unit = if n > 1 { of_head } else { of_layer.len() };
        if n == 1 {
            self.ask(kernels, of_layer.clone(), pos);
        }
        let shares = [&mut self.keys[of_layer.clone()], &mut self.values[of_layer]];
        team.split(shares.map(|values| Share { values, unit }), |[keys, values]| {
            let heads = keys.values.chunks_exact_mut(of_head).zip(values.values.chunks_exact_mut(of_head));
            for (head, (keys, values)) in (keys.first / of_head..).zip(heads) {
                for t in 0..n {
                    let of_token = t * width + head * head_dim..t * width + (head + 1) * head_dim;
                    store_key(keys, pos + t, &k[of_token.clone()]);
                    store_value(values, pos + t, &v[of_token]);
                }
            }
        });
    }

    /// Asks for the lines that position `pos` of a layer goes to. Since the last position they have left the caches, and
    /// its values lie in one each: storing them would wait for one after the other.
    fn ask(&self, kernels: &Kernels, of_layer: Range<usize>, pos: usize) {
        let (head_dim, of_head) = (self.head_dim, self.n_ctx * self.head_dim);
        let (row, place) = (pos / ROW * ROW * head_dim, pos % ROW);
        for head in of_layer.step_by(of_head) {
            kernels.ask(&self.keys[head + pos * head_dim..][..head_dim], LINE);
            kernels.ask(&self.values[head + row..][place..ROW * head_dim], ROW);
        }
    }

    /// The first `n` keys of one head: `[n, head_dim]`.
    #[must_use]
    pub fn keys(&self, layer: usize, head: usize, n: usize) -> &[f16] {
        self.keys[(layer * self.n_head_kv + head) * self.n_ctx * self.head_dim..][..n * self.head_dim]
            .reinterpret_cast()
    }

    /// The first `n` values of one head.
    #[must_use]
    pub fn values(&self, layer: usize, head: usize, n: usize) -> Values<'_> {
        let head = &self.values[(layer * self.n_head_kv + head) * self.n_ctx * self.head_dim..];
        Values::new(head[..n.next_multiple_of(ROW) * self.head_dim].reinterpret_cast(), n, self.head_dim)
    }
}

/// Writes position `pos` of the keys of one head, `[n_ctx, head_dim]`.
fn store_key(keys: &mut [u16], pos: usize, k: &[f32]) {
    let row: &mut [f16] = keys[pos * k.len()..][..k.len()].reinterpret_cast_mut();
    row.convert_from_f32_slice(k);
}

/// Writes position `pos` of the values of one head, `[n_ctx / ROW, head_dim, ROW]`.
fn store_value(values: &mut [u16], pos: usize, v: &[f32]) {
    const AT_ONCE: usize = 64;
    let rows = values[pos / ROW * ROW * v.len()..][..ROW * v.len()].as_chunks_mut::<ROW>().0;
    let mut half = [f16::ZERO; AT_ONCE];
    for (rows, v) in rows.chunks_mut(AT_ONCE).zip(v.chunks(AT_ONCE)) {
        let half = &mut half[..v.len()];
        half.convert_from_f32_slice(v);
        for (row, v) in rows.iter_mut().zip(half) {
            row[pos % ROW] = v.to_bits();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_HEAD_KV: usize = 3;
    const HEAD_DIM: usize = 70;
    const N_LAYER: usize = 2;
    const N_CTX: usize = 3 * ROW;

    fn empty() -> KvCache {
        let zeroed = || Lines::zeroed(N_LAYER * N_HEAD_KV * N_CTX * HEAD_DIM).unwrap();
        KvCache { keys: zeroed(), values: zeroed(), n_head_kv: N_HEAD_KV, head_dim: HEAD_DIM, n_ctx: N_CTX }
    }

    /// A number of its own for each place, exact in f16.
    fn number(pos: usize, head: usize, d: usize) -> f32 {
        ((pos * 31 + head * 7 + d) % 2039 + 1) as f32
    }

    fn of_positions(first: usize, n: usize, sign: f32) -> Vec<f32> {
        let number =
            |i: usize| number(first + i / (N_HEAD_KV * HEAD_DIM), i / HEAD_DIM % N_HEAD_KV, i % HEAD_DIM);
        (0..n * N_HEAD_KV * HEAD_DIM).map(|i| sign * number(i)).collect()
    }

    /// Layer 1 holds the first `n` positions, keys negative; the rest of the last tile counts as zero.
    fn check(cache: &KvCache, n: usize) {
        for head in 0..N_HEAD_KV {
            for (pos, key) in cache.keys(1, head, n).chunks_exact(HEAD_DIM).enumerate() {
                assert!(
                    key.iter().enumerate().all(|(d, k)| k.to_f32() == -number(pos, head, d)),
                    "key {pos}"
                );
            }
            let values = cache.values(1, head, n);
            for d in 0..HEAD_DIM {
                let mut found = Vec::new();
                for (first, [tiles]) in values.rows([d]) {
                    assert_eq!(first, found.len());
                    found.extend_from_slice(tiles.as_flattened());
                }
                if let Some((first, tile)) = values.rest(d) {
                    assert_eq!(first, found.len());
                    found.extend(tile);
                }
                assert_eq!(found.len(), values.n_pad());
                for (pos, v) in found.iter().enumerate() {
                    let expected = if pos < n { number(pos, head, d) } else { 0.0 };
                    assert_eq!(v.to_f32(), expected, "position {pos} of {n}, head {head}, dimension {d}");
                }
            }
        }
    }

    #[test]
    fn every_position_is_found_again_in_whatever_batches_it_came() {
        const N: usize = 2 * ROW + 9;
        for n_threads in [1, 2, 3, 5] {
            let team = Team::new(Some(n_threads)).unwrap();
            for batch in [1, 2, 31, ROW, N] {
                let mut cache = empty();
                cache.values.fill(0x7c00); // an earlier text left infinities
                for pos in (0..N).step_by(batch) {
                    let n = batch.min(N - pos);
                    let (k, v) = (of_positions(pos, n, -1.0), of_positions(pos, n, 1.0));
                    team.enter(|| cache.store((&team, Kernels::detect()), 1, pos, &k, &v));
                }
                for n in [1, 31, 32, 33, ROW - 1, ROW, ROW + 1, N] {
                    check(&cache, n); // also with later positions behind them
                }
                let of_layer = N_HEAD_KV * N_CTX * HEAD_DIM;
                let other = cache.keys[..of_layer].iter().all(|&k| k == 0);
                assert!(other && cache.values[..of_layer].iter().all(|&v| v == 0x7c00), "the other layer");
            }
        }
    }
}
