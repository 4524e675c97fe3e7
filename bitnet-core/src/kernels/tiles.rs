//! Quantized activations of several tokens, laid out for matrix products.
//!
//! Tokens are cut into tiles as the kernel's [`Tiling`] says. Within a tile four consecutive values of each token stand
//! together, token after token, then the next four:
//!
//! ```text
//! tile of T tokens:  t0[0..4] t1[0..4] .. tT[0..4]   t0[4..8] t1[4..8] .. tT[4..8]   ...
//! ```
//!
//! so that a matrix kernel walks one pointer and broadcasts four bytes for each token. A tile of one token is the
//! plain vector. What the values are, where a kernel multiplies pairs of them, is in `paired.rs`.

use std::ops::Range;

use super::Kernels;
use super::paired::{self, Peak};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::i2s::BLOCK;

/// How tokens are cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiling {
    /// Into tiles of nearly equal size, at most this.
    Even(usize),
    /// Into tiles of one size, and a smaller one of what is left: for a kernel that first makes something of a tile, as
    /// much for a small one, which every row then uses.
    Full {
        /// Tokens of a tile.
        size: usize,
        /// Tokens of a tile for which it does.
        least: usize,
    },
}

impl Tiling {
    /// Tokens of the largest tile.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Tiling::Even(size) | Tiling::Full { size, .. } => size,
        }
    }

    /// Tokens of each tile of `n`.
    fn sizes(self, n: usize) -> impl Iterator<Item = usize> + Clone {
        let n_tiles = n.div_ceil(self.size());
        let end = move |i: usize| match self {
            Tiling::Even(_) => i * n / n_tiles,
            Tiling::Full { size, .. } => n.min(i * size),
        };
        (0..n_tiles).map(move |i| end(i + 1) - end(i))
    }
}

/// Quantized activations `[n, cols]` in the tiles of one table of kernels.
#[derive(Debug)]
pub struct Tokens {
    cols: usize,
    tiling: Tiling,
    paired: bool,
    q: Lines<i8>,
    scales: Vec<ActScale>,
    /// A list for each tile, and for as many as there ever were, so that their memory is kept.
    peaks: Vec<Vec<Peak>>,
}

/// One tile, to be written token by token.
#[derive(Debug)]
pub struct TileMut<'a> {
    q: &'a mut [i8],
    scales: &'a mut [ActScale],
    peaks: &'a mut Vec<Peak>,
    paired: bool,
}

/// A view of [`Tokens`].
#[derive(Debug, Clone, Copy)]
pub struct ActTiles<'a> {
    q: &'a [i8],
    scales: &'a [ActScale],
    peaks: &'a [Vec<Peak>],
    cols: usize,
    tiling: Tiling,
    paired: bool,
}

/// One tile: `n` tokens from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// First token of the tile.
    pub first: usize,
    /// Packed values, `[cols / 4, n, 4]`.
    pub q: &'a [i8],
    /// Scales of its tokens, `[n]`, with what is to be subtracted from their sums.
    pub scales: &'a [ActScale],
    /// What the values leave out, in the order of the tokens.
    pub peaks: &'a [Peak],
}

impl Default for Tokens {
    fn default() -> Tokens {
        let (q, scales, peaks) = Default::default();
        Tokens { cols: 0, tiling: Tiling::Even(1), paired: false, q, scales, peaks }
    }
}

impl Tokens {
    /// `n` tokens of `cols` values, for `kernels`, in memory of their own; `None` if there is none.
    #[must_use]
    pub fn with_capacity(kernels: &Kernels, n: usize, cols: usize) -> Option<Tokens> {
        let mut tokens = Tokens { q: Lines::zeroed(n.checked_mul(cols)?)?, ..Tokens::default() };
        tokens.resize(kernels, n, cols);
        Some(tokens)
    }

    /// Room for `n` tokens of `cols` values, for `kernels`: to be written, all of them, before they are read.
    ///
    /// # Panics
    /// If `cols` is not whole blocks.
    pub fn resize(&mut self, kernels: &Kernels, n: usize, cols: usize) {
        assert!(cols.is_multiple_of(BLOCK), "tokens of {cols} values");
        (self.cols, self.tiling) = (cols, kernels.tiling());
        self.paired = kernels.pairs() && n > 1;
        self.q.resize(n * cols);
        self.scales.resize(n, ActScale { s: 1.0, sum: 0 });
        let n_tiles = n.div_ceil(self.tiling.size());
        self.peaks.resize_with(n_tiles.max(self.peaks.len()), Vec::new);
        self.peaks.iter_mut().for_each(Vec::clear);
    }

    /// The rows of `q`, `[n, cols]`, with their scales. Their sums have to be right where pairs are not multiplied, and
    /// are computed where they are.
    ///
    /// # Panics
    /// If `q` does not hold a row of whole blocks for each scale.
    #[must_use]
    pub fn pack(kernels: &Kernels, q: &[i8], scales: &[ActScale]) -> Tokens {
        let mut tokens = Tokens::default();
        tokens.repack(kernels, q, scales);
        tokens
    }

    /// As [`Tokens::pack`], in memory that held other tokens.
    ///
    /// # Panics
    /// If `q` does not hold a row of whole blocks for each scale.
    pub fn repack(&mut self, kernels: &Kernels, q: &[i8], scales: &[ActScale]) {
        let cols = q.len() / scales.len().max(1);
        assert_eq!(q.len(), scales.len() * cols, "activations [{}, {cols}]", scales.len());
        self.resize(kernels, scales.len(), cols);
        let mut rows = q.chunks_exact(cols.max(1)).zip(scales);
        let mut row = vec![0; cols];
        for mut tile in self.tiles_mut() {
            for (t, (q, a)) in rows.by_ref().take(tile.n()).enumerate() {
                row.copy_from_slice(q);
                tile.put(kernels, t, &mut row, *a);
            }
        }
    }

    /// The tiles, in order, to be written.
    pub fn tiles_mut(&mut self) -> impl Iterator<Item = TileMut<'_>> {
        let (cols, paired) = (self.cols, self.paired);
        let (mut q, mut scales) = (&mut self.q[..], self.scales.as_mut_slice());
        let sizes = self.tiling.sizes(scales.len());
        sizes.zip(&mut self.peaks).map(move |(n, peaks)| {
            peaks.clear();
            let q = q.split_off_mut(..n * cols).expect("q has all tokens");
            let scales = scales.split_off_mut(..n).expect("a scale for each token");
            TileMut { q, scales, peaks, paired }
        })
    }

    /// Number of tokens.
    #[must_use]
    pub fn n(&self) -> usize {
        self.scales.len()
    }

    /// A view of them.
    #[must_use]
    pub fn tiles(&self) -> ActTiles<'_> {
        ActTiles {
            q: &self.q,
            scales: &self.scales,
            peaks: &self.peaks,
            cols: self.cols,
            tiling: self.tiling,
            paired: self.paired,
        }
    }
}

impl TileMut<'_> {
    /// Number of tokens.
    #[must_use]
    pub fn n(&self) -> usize {
        self.scales.len()
    }

    /// Writes token `t` of this tile, after those before it. `row`, `[cols]`, is scratch afterwards.
    ///
    /// # Panics
    /// If there is no token `t`, the length disagrees, or a later token was written before.
    pub fn put(&mut self, kernels: &Kernels, t: usize, row: &mut [i8], a: ActScale) {
        let n = self.n();
        assert!(self.q.len() == n * row.len() && t < n, "token {t} of a tile [{n}, {}]", row.len());
        self.scales[t] = a;
        if self.paired {
            let in_order = self.peaks.last().is_none_or(|peak| (peak.token as usize) < t);
            assert!(in_order, "token {t} of a tile is written after a later one");
            self.scales[t].sum = kernels.pair_up(row, t, self.peaks);
        }
        if n == 1 {
            return self.q.copy_from_slice(row);
        }
        let (to, from) = (self.q.as_chunks_mut::<4>().0, row.as_chunks::<4>().0);
        for (to, from) in to[t..].iter_mut().step_by(n).zip(from) {
            *to = *from;
        }
    }
}

impl<'a> ActTiles<'a> {
    /// Number of tokens.
    #[must_use]
    pub fn n(&self) -> usize {
        self.scales.len()
    }

    /// Values of a token.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Those of `tokens`, which begin and end where tiles do.
    ///
    /// # Panics
    /// If they do not, or are some of tiles whose sizes depend on how many tokens there are.
    #[must_use]
    pub fn slice(self, tokens: Range<usize>) -> ActTiles<'a> {
        let size = self.tiling.size();
        let whole = |end: usize| end == self.n() || end.is_multiple_of(size);
        let all = tokens == (0..self.n());
        assert!(
            all || matches!(self.tiling, Tiling::Full { .. }) && whole(tokens.start) && whole(tokens.end),
            "tokens {tokens:?} of {} in tiles of {size}",
            self.n()
        );
        ActTiles {
            q: &self.q[tokens.start * self.cols..tokens.end * self.cols],
            peaks: &self.peaks[tokens.start / size..],
            scales: &self.scales[tokens],
            ..self
        }
    }

    /// Whether they are what `kernels` read. A single token is the same for all.
    #[must_use]
    pub fn are_for(&self, kernels: &Kernels) -> bool {
        self.n() < 2 || (self.tiling == kernels.tiling() && self.paired == kernels.pairs())
    }

    /// The plain vector of token `t`.
    ///
    /// # Panics
    /// If it is not plain: a tile holds more than one token, or pairs.
    #[must_use]
    pub fn single(&self, t: usize) -> (&'a [i8], ActScale) {
        let plain = !self.paired && (self.tiling.size() == 1 || self.n() == 1);
        assert!(plain, "activations are packed for several tokens");
        (&self.q[t * self.cols..][..self.cols], self.scales[t])
    }

    /// The plain vector of token `t`, wherever its tile has it; returns its scale.
    ///
    /// - `row`: `[cols]`, overwritten
    ///
    /// # Panics
    /// If there is no token `t`, or the length disagrees.
    pub fn unpack(&self, t: usize, row: &mut [i8]) -> f32 {
        assert_eq!(row.len(), self.cols, "a vector of {} values", self.cols);
        let tile =
            self.tiles().find(|tile| t < tile.first + tile.scales.len()).expect("a token that is there");
        let (t, n) = (t - tile.first, tile.scales.len());
        let from = tile.q.as_chunks::<4>().0[t..].iter().step_by(n);
        for (to, from) in row.as_chunks_mut::<4>().0.iter_mut().zip(from) {
            *to = *from;
        }
        if self.paired {
            paired::unpair(row, t, tile.peaks);
        }
        tile.scales[t].s
    }

    /// The tiles, in order.
    pub fn tiles(self) -> impl Iterator<Item = Tile<'a>> + Clone {
        let mut first = 0;
        self.tiling.sizes(self.n()).zip(self.peaks).map(move |(n, peaks)| {
            let tile = Tile {
                first,
                q: &self.q[first * self.cols..][..n * self.cols],
                scales: &self.scales[first..][..n],
                peaks,
            };
            first += n;
            tile
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_found_again() {
        let cols = 256;
        for kernels in Kernels::all() {
            for n in (1..14).chain([31]) {
                let q: Vec<i8> = (0..n * cols).map(|i| (i * 37 + i / 91) as i8).collect();
                let tokens = Tokens::pack(kernels, &q, &vec![ActScale { s: 2.0, sum: 0 }; n]);
                let tiles = tokens.tiles();
                assert_eq!((tiles.n(), tiles.cols()), (n, cols));
                assert!(tiles.are_for(kernels) && tiles.paired == (kernels.pairs() && n > 1));
                for (t, expected) in q.chunks_exact(cols).enumerate() {
                    let mut row = vec![0; cols];
                    assert_eq!(tiles.unpack(t, &mut row), 2.0);
                    assert_eq!(row, expected, "{kernels:?}: token {t} of {n}");
                }
                if tiles.paired {
                    continue; // the values themselves: paired.rs
                }
                for tile in tiles.tiles() {
                    let size = tile.scales.len();
                    assert!((1..=kernels.tiling().size()).contains(&size) && tile.peaks.is_empty());
                    for (i, &v) in tile.q.iter().enumerate() {
                        let (k, t) = (i / (4 * size) * 4 + i % 4, tile.first + i / 4 % size);
                        assert_eq!(v, q[t * cols + k], "{kernels:?}: value {i} of a tile");
                    }
                }
            }
        }
    }

    #[test]
    fn even_tiles_differ_by_at_most_one_token() {
        assert_eq!(Tiling::Even(12).sizes(0).count(), 0);
        for (n, tile) in [(1, 1), (128, 12), (128, 10), (7, 4), (512, 10)] {
            let sizes: Vec<usize> = Tiling::Even(tile).sizes(n).collect();
            assert_eq!(sizes.iter().sum::<usize>(), n);
            assert!(
                sizes.iter().all(|&size| size <= tile && size + 1 >= sizes[0]),
                "{n} by {tile}: {sizes:?}"
            );
        }
    }

    #[test]
    fn full_tiles_leave_the_rest_to_one() {
        for (n, size, expected) in
            [(0, 32, &[][..]), (1, 32, &[1]), (32, 32, &[32]), (70, 32, &[32, 32, 6]), (3, 1, &[1; 3])]
        {
            assert_eq!(
                Tiling::Full { size, least: 1 }.sizes(n).collect::<Vec<_>>(),
                expected,
                "{n} by {size}"
            );
        }
    }

    #[test]
    fn a_slice_has_the_tiles_of_its_tokens() {
        let (n, cols) = (70, 128);
        for kernels in Kernels::all() {
            let q: Vec<i8> = (0..n * cols).map(|i| (i * 37 + i / 91) as i8).collect();
            let tokens = Tokens::pack(kernels, &q, &vec![ActScale { s: 2.0, sum: 0 }; n]);
            let tiles = tokens.tiles();
            let mut parts: Vec<Range<usize>> = std::iter::once(0..n).collect();
            if let Tiling::Full { size, .. } = tiles.tiling {
                parts.extend([0..size, size..2 * size, size..n, n / size * size..n]);
            }
            for part in parts {
                let slice = tiles.slice(part.clone());
                assert_eq!(slice.n(), part.len());
                for t in part.clone() {
                    let mut row = vec![0; cols];
                    slice.unpack(t - part.start, &mut row);
                    assert_eq!(row, q[t * cols..][..cols], "{kernels:?}: token {t} of {part:?}");
                }
            }
        }
    }
}
