//! How a product with many tokens is cut into strips, which threads take one after the other.
//!
//! Where kernels read prepared rows, each whole tile of tokens has strips of its own, since a kernel makes tables of a
//! tile that all rows of the strip use. The remaining tokens share strips of fewer rows.

use super::Ready;
use super::product::{ROWS_TOGETHER, with_products};
use crate::kernels::{Kernels, Tiling, prepared};
use crate::model::operand::Operand;
use crate::team::Team;

/// Some rows of a product, for some tokens.
pub(super) struct Strip<'a> {
    of: Ready<'a>,
    /// The first row.
    first: usize,
    /// The first token.
    pub(super) token: usize,
    /// Whether its tokens are a tile, for which kernels read prepared rows.
    is_tiled: bool,
    /// The outputs of these rows, for each token.
    y: Vec<&'a mut [f32]>,
}

impl Strip<'_> {
    /// Overwrites the outputs with the product.
    pub(super) fn multiply(&mut self, kernels: &Kernels, x: &Operand) {
        let prepared = self.of.prepared().filter(|_| self.is_tiled);
        self.of.matrix.multiply_strip(kernels, (self.first, self.token), &mut self.y, x, prepared);
    }

    /// Multiplies the same rows of `other` into scratch, and has `join` combine each token's outputs with them.
    pub(super) fn join(
        &mut self,
        other: Ready<'_>,
        kernels: &Kernels,
        x: &Operand,
        join: impl Fn(&mut [f32], &[f32]),
    ) {
        let rows = self.y.first().map_or(0, |y| y.len());
        with_products(self.y.len() * rows, |products| {
            let y = products.chunks_exact_mut(rows).collect();
            let mut scratch = Strip { of: other, y, ..*self };
            scratch.multiply(kernels, x);
            self.y.iter_mut().zip(scratch.y).for_each(|(y, products)| join(y, products));
        });
    }
}

/// The sizes of a product's strips. Tokens in tiles come first, those in none last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Number of tokens in tiles.
    tiled: usize,
    /// Tokens of a tile.
    tile: usize,
    /// Rows of a strip for one tile.
    tiled_rows: usize,
    /// Rows of a strip for all tokens in no tile.
    rows: usize,
}

impl Cut {
    /// A few strips for each thread, so that none waits long for the last one to finish.
    pub(super) fn new(m: Ready<'_>, n: usize, kernels: &Kernels, team: &Team) -> Cut {
        const STRIPS_PER_THREAD: usize = 4;
        let rows = m.matrix.rows;
        let even = rows.div_ceil(team.n_threads() * STRIPS_PER_THREAD).next_multiple_of(ROWS_TOGETHER);
        match kernels.tiling() {
            Tiling::Full { size, least } if m.prepared().is_some() => {
                let rest = n % size;
                let tiled = if rest < least { n - rest } else { n };
                let tiled_rows = tiled_rows(rows, tiled.div_ceil(size), team.n_threads());
                Cut { tiled, tile: size, tiled_rows, rows: even }
            }
            _ => Cut { tiled: 0, tile: n.max(1), tiled_rows: rows, rows: even },
        }
    }

    /// For a product that is combined with another: strips so small that one result is still in the second-level cache
    /// when the other is ready.
    pub(super) fn cached(m: Ready<'_>, n: usize, kernels: &Kernels, team: &Team) -> Cut {
        /// Most bytes of both results for the tokens in no tile.
        const CACHED: usize = 1 << 19;
        let cut = Cut::new(m, n, kernels, team);
        let cached = CACHED / (2 * size_of::<f32>() * (n - cut.tiled).max(1)) / ROWS_TOGETHER * ROWS_TOGETHER;
        Cut { rows: cached.clamp(ROWS_TOGETHER, cut.rows), ..cut }
    }
}

/// The strip height, in whole pieces of prepared rows, that gives the busiest thread the least work.
fn tiled_rows(rows: usize, n_tiles: usize, n_threads: usize) -> usize {
    /// Building the tables takes as long as looking up sums for this many rows.
    const TABLES: usize = 150;
    /// The sums of a tile for this many rows fill half of a second-level cache.
    const MOST_ROWS: usize = 4096;
    let pieces = (1..=rows.min(MOST_ROWS).div_ceil(prepared::ROWS)).rev();
    pieces
        .map(|n| n * prepared::ROWS)
        .min_by_key(|&strip| {
            let n_strips = n_tiles * rows.div_ceil(strip);
            n_strips.div_ceil(n_threads) * (strip.min(rows) + TABLES)
        })
        .unwrap_or(prepared::ROWS)
}

/// Cuts a product into strips.
pub(super) fn strips<'a>(of: Ready<'a>, y: &'a mut [f32], cut: Cut) -> Vec<Strip<'a>> {
    let mut strips = Vec::new();
    let n_rows = of.matrix.rows;
    let mut add = |token: usize, rows: usize, y: &'a mut [f32]| {
        let before = strips.len();
        let is_tiled = token < cut.tiled;
        let firsts = (0..n_rows).step_by(rows);
        strips.extend(firsts.map(|first| Strip { of, first, token, is_tiled, y: Vec::new() }));
        for y in y.chunks_exact_mut(n_rows) {
            for (strip, y) in strips[before..].iter_mut().zip(y.chunks_mut(rows)) {
                strip.y.push(y);
            }
        }
    };
    let (tiled, others) = y.split_at_mut(cut.tiled * n_rows);
    for (i, y) in tiled.chunks_mut(cut.tile * n_rows).enumerate() {
        add(i * cut.tile, cut.tiled_rows, y);
    }
    if !others.is_empty() {
        add(cut.tiled, cut.rows, others);
    }
    strips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_of_tiles_leave_no_thread_with_much_more_than_others() {
        for ((rows, n_tiles, n_threads), expected) in [
            ((2560, 4, 1), 2560),
            ((2560, 4, 2), 2560),
            ((2560, 1, 2), 1280),
            ((2560, 3, 2), 1280),
            ((6912, 4, 2), 3456),
            ((2560, 4, 8), 1280),
            ((2560, 4, 3), 896),
            ((640, 16, 8), 640),
            ((130, 1, 64), 128),
        ] {
            let found = tiled_rows(rows, n_tiles, n_threads);
            assert_eq!(found, expected, "{rows} rows, {n_tiles} tiles, {n_threads} threads");
        }
    }
}
