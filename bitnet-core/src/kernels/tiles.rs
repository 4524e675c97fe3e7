//! Quantized activations of several tokens, laid out for matrix products.
//!
//! Tokens are cut into tiles of nearly equal size, at most the kernel's `tile` tokens each. Within a tile four
//! consecutive values of each token stand together, token after token, then the next four:
//!
//! ```text
//! tile of T tokens:  t0[0..4] t1[0..4] .. tT[0..4]   t0[4..8] t1[4..8] .. tT[4..8]   ...
//! ```
//!
//! so that a matrix kernel walks one pointer and broadcasts four bytes for each token. A tile of one token is the
//! plain vector.

use crate::quant::act::ActScale;

/// A view of quantized activations `[n, cols]` in tiles.
#[derive(Debug, Clone, Copy)]
pub struct ActTiles<'a> {
    q: &'a [i8],
    scales: &'a [ActScale],
    cols: usize,
    tile: usize,
}

/// One tile: `n` tokens from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// First token of the tile.
    pub first: usize,
    /// Packed values, `[cols / 4, n, 4]`.
    pub q: &'a [i8],
    /// Scales of its tokens, `[n]`.
    pub scales: &'a [ActScale],
}

impl<'a> ActTiles<'a> {
    /// A view of `q`, whose tiles were packed by [`pack_tile`].
    ///
    /// # Panics
    /// If `q` does not hold one row of `cols` values for each scale, or `cols` is not a multiple of 4.
    #[must_use]
    pub fn new(q: &'a [i8], scales: &'a [ActScale], cols: usize, tile: usize) -> Self {
        assert_eq!(q.len(), scales.len() * cols, "activations [{}, {cols}]", scales.len());
        assert!(cols.is_multiple_of(4) && tile > 0, "activations of {cols} columns in tiles of {tile}");
        ActTiles { q, scales, cols, tile }
    }

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

    /// The plain vector of token `t`.
    ///
    /// # Panics
    /// If a tile holds more than one token.
    #[must_use]
    pub fn single(&self, t: usize) -> (&'a [i8], ActScale) {
        assert!(self.tile == 1 || self.n() == 1, "activations are packed for several tokens");
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
        tile.scales[t].s
    }

    /// The tiles, in order.
    pub fn tiles(self) -> impl Iterator<Item = Tile<'a>> {
        let n_tiles = self.n().div_ceil(self.tile);
        (0..n_tiles).map(move |i| {
            let (first, end) = (bound(i, self.n(), n_tiles), bound(i + 1, self.n(), n_tiles));
            Tile { first, q: &self.q[first * self.cols..end * self.cols], scales: &self.scales[first..end] }
        })
    }
}

/// First token of tile `i` when `n` tokens are cut into `n_tiles`.
fn bound(i: usize, n: usize, n_tiles: usize) -> usize {
    i * n / n_tiles
}

/// Writes the vector of token `t` to its place in a tile of `n` tokens.
///
/// # Panics
/// If `q` does not hold `n` rows, or `t` is not below `n`.
pub fn pack_tile(q: &mut [i8], row: &[i8], t: usize, n: usize) {
    assert!(q.len() == n * row.len() && t < n, "token {t} of a tile [{n}, {}]", row.len());
    if n == 1 {
        return q.copy_from_slice(row);
    }
    let (to, from) = (q.as_chunks_mut::<4>().0, row.as_chunks::<4>().0);
    for (to, from) in to[t..].iter_mut().step_by(n).zip(from) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_found_again() {
        let (cols, tile) = (8, 3);
        for n in 1..14 {
            let mut q = vec![0_i8; n * cols];
            let scales = vec![ActScale { s: 1.0, sum: 0 }; n];
            let sizes: Vec<usize> =
                ActTiles::new(&q, &scales, cols, tile).tiles().map(|t| t.scales.len()).collect();
            let mut first = 0;
            for size in sizes {
                for t in 0..size {
                    let row: Vec<i8> = (0..cols).map(|k| ((first + t) * cols + k) as i8).collect();
                    pack_tile(&mut q[first * cols..][..size * cols], &row, t, size);
                }
                first += size;
            }
            let mut seen = 0;
            for tile in ActTiles::new(&q, &scales, cols, tile).tiles() {
                let size = tile.scales.len();
                assert!(size <= 3 && size > 0);
                for (i, &v) in tile.q.iter().enumerate() {
                    let (k, t) = (i / (4 * size) * 4 + i % 4, tile.first + i / 4 % size);
                    assert_eq!(v, (t * cols + k) as i8);
                    seen += 1;
                }
            }
            assert_eq!(seen, n * cols);
            for t in 0..n {
                let mut row = vec![0; cols];
                ActTiles::new(&q, &scales, cols, tile).unpack(t, &mut row);
                assert!(row.iter().enumerate().all(|(k, &v)| v == (t * cols + k) as i8), "token {t} of {n}");
            }
        }
    }

    #[test]
    fn tiles_differ_by_at_most_one_token() {
        let scales = vec![ActScale { s: 1.0, sum: 0 }; 128];
        let q = vec![0; 128 * 4];
        let sizes: Vec<usize> = ActTiles::new(&q, &scales, 4, 12).tiles().map(|t| t.scales.len()).collect();
        assert_eq!(sizes.len(), 11);
        assert!(sizes.iter().all(|&n| n == 11 || n == 12));
    }
}
