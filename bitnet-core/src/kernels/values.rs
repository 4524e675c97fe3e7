//! A view of the values of one head, as attention sums them.

use half::f16;

use crate::ops::softmax::PAD;

/// Positions of a row of values.
pub const ROW: usize = 128;

/// The values of one head, a tile of 32 positions at a time.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    rows: &'a [f16],
    n: usize,
    head_dim: usize,
}

impl<'a> Values<'a> {
    /// A view of the first `n` positions in `rows`: `[n / ROW rounded up, head_dim, ROW]`. What stands past them counts
    /// as zero: it may be later tokens of the same batch, or an earlier text.
    ///
    /// # Panics
    /// If `rows` is of another length.
    #[must_use]
    pub fn new(rows: &'a [f16], n: usize, head_dim: usize) -> Self {
        assert_eq!(rows.len(), n.next_multiple_of(ROW) * head_dim, "values of {n} positions");
        Values { rows, n, head_dim }
    }

    /// Positions, rounded up to whole tiles.
    #[must_use]
    pub fn n_pad(&self) -> usize {
        self.n.next_multiple_of(PAD)
    }

    /// Values of a position.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// For each row of these dimensions its first position, and the whole tiles of each.
    #[inline(always)]
    pub fn rows<const D: usize>(
        &self,
        dims: [usize; D],
    ) -> impl Iterator<Item = (usize, [&'a [[f16; PAD]]; D])> + use<'a, D> {
        let Values { rows, n, head_dim } = *self;
        rows.chunks_exact(ROW * head_dim).zip((0..).step_by(ROW)).map(move |(row, first)| {
            let n_tiles = ((n - first) / PAD).min(ROW / PAD);
            let mut tiles = [&[][..]; D];
            for (tiles, d) in tiles.iter_mut().zip(dims) {
                *tiles = &row[d * ROW..][..ROW].as_chunks().0[..n_tiles];
            }
            (first, tiles)
        })
    }

    /// The last tile of dimension `d` and its first position, zero past the last position; `None` if that tile is
    /// whole.
    #[inline(always)]
    #[must_use]
    pub fn rest(&self, d: usize) -> Option<(usize, [f16; PAD])> {
        let first = self.n / PAD * PAD;
        let n = self.n - first;
        if n == 0 {
            return None;
        }
        let row = &self.rows[first / ROW * ROW * self.head_dim..][d * ROW..][..ROW];
        let tile: &[f16; PAD] = row[first % ROW..].first_chunk().expect("rows are whole tiles");
        // A choice for each lane and not a copy of `n`, which would be a call.
        let mut masked = [f16::ZERO; PAD];
        for (lane, (masked, &value)) in masked.iter_mut().zip(tile).enumerate() {
            *masked = if lane < n { value } else { f16::ZERO };
        }
        Some((first, masked))
    }
}
