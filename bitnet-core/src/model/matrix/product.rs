//! The product of weight matrices with activations: cut among threads, and which kernel each format goes to.

use std::cell::RefCell;

use super::{Format, Matrix, Packed, Ready, Scale, Workspace};
use crate::kernels::prepared::{self, Prepared};
use crate::kernels::{Kernels, Tiling};
use crate::model::operand::Operand;
use crate::pages::Lines;
use crate::team::{Piece, Share, Team};
use crate::trace::trace_timing;

/// Row granularity of a cut among threads: a multiple of every kernel's row group.
pub(super) const ROWS_TOGETHER: usize = 32;

impl Matrix {
    /// Output `r` of the product of an F16 matrix with `x`: values an f16 can hold.
    ///
    /// # Panics
    /// If the matrix is not F16.
    pub fn logit(&self, kernels: &Kernels, r: usize, x: &[f32], y: &mut f32) {
        assert!(self.format == Format::F16, "{} is not F16", self.name());
        kernels.gemv_f16(std::slice::from_mut(y), &self.halves()[r * self.cols..][..self.cols], x);
    }

    /// Rows `first..first + y.len()` of `W x`, for the only token of `x`.
    #[trace_timing(
        matrix,
        tensor = self.name(),
        rows = y.values.len(),
        bytes = self.row_bytes() * y.values.len(),
        macs = self.cols * y.values.len(),
        zeros = x.n_zeros()
    )]
    pub(super) fn multiply_vector(&self, kernels: &Kernels, y: Piece<'_>, x: &Operand) {
        let Piece { first, values: y } = y;
        match self.format {
            _ if y.is_empty() => {}
            Format::Ternary { scale: Scale::One(scale), .. } => {
                let (q, a) = x.tiles().single(0);
                match self.packed() {
                    Packed::Four(w) => kernels.gemv_i2s(y, w.slice(first, y.len()), q, a, scale),
                    Packed::Five(w) => kernels.gemv_tri5(y, w.slice(first, y.len()), q, a, scale),
                }
            }
            Format::Ternary { .. } => self.multiply_scaled(kernels, (first, 0), &mut [y], x),
            Format::F16 => {
                let w = &self.halves()[first * self.cols..][..y.len() * self.cols];
                kernels.gemv_f16(y, w, x.rounded(0));
            }
            Format::Dense(_) => {
                with_row(self.cols, |row| {
                    for (r, y) in y.iter_mut().enumerate() {
                        self.expand_row(first + r, row);
                        kernels.gemv_f32(std::slice::from_mut(y), row, x.float(0));
                    }
                });
            }
        }
    }

    /// The same rows for tokens `t..` of `x`, as many as there are in `y`.
    ///
    /// - `prepared`: all rows, if kernels made something of them that they read for these tokens
    #[trace_timing(
        matrix,
        tensor = self.name(),
        tokens = y.len(),
        bytes = y.first().map_or(0, |y| y.len() * self.row_bytes()),
        macs = y.iter().map(|y| y.len() * self.cols).sum::<usize>()
    )]
    fn multiply_strip(
        &self,
        kernels: &Kernels,
        (first, t): (usize, usize),
        y: &mut [&mut [f32]],
        x: &Operand,
        prepared: Option<Prepared<'_>>,
    ) {
        let rows = y.first().map_or(0, |y| y.len());
        match self.format {
            Format::Ternary { scale: Scale::One(scale), .. } => {
                let x = x.tiles().slice(t..t + y.len());
                PANEL.with_borrow_mut(|panel| match (prepared, self.packed()) {
                    (Some(w), _) => kernels.gemm_prepared(y, w.slice(first, rows), &x, scale, panel),
                    (None, Packed::Four(w)) => kernels.gemm_i2s(y, w.slice(first, rows), &x, scale, panel),
                    (None, Packed::Five(w)) => kernels.gemm_tri5(y, w.slice(first, rows), &x, scale, panel),
                });
            }
            Format::Ternary { .. } => self.multiply_scaled(kernels, (first, t), y, x),
            Format::F16 => {
                // A few rows at a time, so that every token finds them in the cache.
                for at in (0..rows).step_by(ROWS_TOGETHER) {
                    let n = ROWS_TOGETHER.min(rows - at);
                    let w = &self.halves()[(first + at) * self.cols..][..n * self.cols];
                    for (y, t) in y.iter_mut().zip(t..) {
                        kernels.gemv_f16(&mut y[at..at + n], w, x.rounded(t));
                    }
                }
            }
            Format::Dense(_) => {
                with_row(self.cols, |row| {
                    for r in 0..rows {
                        self.expand_row(first + r, row);
                        for (y, t) in y.iter_mut().zip(t..) {
                            kernels.gemv_f32(&mut y[r..=r], row, x.float(t));
                        }
                    }
                });
            }
        }
    }
}

// Scratch that a thread keeps, so that a step allocates nothing.
thread_local! {
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL: RefCell<Lines<u8>> = RefCell::new(Lines::default());
    static PRODUCTS: RefCell<Lines<f32>> = RefCell::new(Lines::default());
}

/// Runs `work`, which must not wait for other threads' work, with room for `n` products.
pub(super) fn with_products(n: usize, work: impl FnOnce(&mut [f32])) {
    PRODUCTS.with_borrow_mut(|products| {
        products.resize(n);
        work(products);
    });
}

/// Runs `work`, which must not wait for other threads' work, with a row to expand weights to.
fn with_row(cols: usize, work: impl FnOnce(&mut [f32])) {
    ROW.with_borrow_mut(|row| {
        row.resize(row.len().max(cols), 0.0);
        work(&mut row[..cols]);
    });
}

/// `y = W x` for several matrices that read the same activations, in one parallel region.
///
/// - each `y`: `[n, rows]`, overwritten; `x`: `[n, cols]`
///
/// # Panics
/// If a length disagrees with a shape above.
pub fn multiply<const M: usize>(
    team: &Team,
    kernels: &Kernels,
    products: [(&Matrix, &mut [f32]); M],
    x: &Operand,
    work: &mut Workspace,
) {
    for (m, y) in &products {
        assert_eq!(x.cols(), m.cols, "{}: activations are {} wide", m.name(), x.cols());
        assert_eq!(y.len(), x.n() * m.rows, "{}: outputs for {} tokens", m.name(), x.n());
    }
    if x.n() == 1 {
        let matrices = products.each_ref().map(|(m, _)| *m);
        let shares = products.map(|(_, y)| Share { values: y, unit: ROWS_TOGETHER });
        team.split(shares, |pieces| {
            for (m, y) in matrices.iter().zip(pieces) {
                m.multiply_vector(kernels, y, x);
            }
        });
    } else {
        let ready =
            Ready::all(products.each_ref().map(|(m, _)| *m), team, kernels, x.n(), &mut work.prepared);
        let mut strips = Vec::new();
        for (m, (_, y)) in ready.into_iter().zip(products) {
            strips.extend(self::strips(m, y, Cut::new(m, x.n(), kernels, team)));
        }
        // Those of the same tokens together, so that halves of the list are halves of the work.
        strips.sort_by_key(|strip| strip.token);
        team.each(strips, |mut strip| strip.multiply(kernels, x));
    }
}

/// `y += W x`: a block's output joins the residual stream.
///
/// - `y`: `[n, rows]`; `x`: `[n, cols]`
///
/// # Panics
/// If a length disagrees with a shape above.
pub fn add_product(
    team: &Team,
    kernels: &Kernels,
    (m, y): (&Matrix, &mut [f32]),
    x: &Operand,
    work: &mut Workspace,
) {
    assert_eq!(x.cols(), m.cols, "{}: activations are {} wide", m.name(), x.cols());
    assert_eq!(y.len(), x.n() * m.rows, "{}: outputs for {} tokens", m.name(), x.n());
    if x.n() == 1 {
        team.split([Share { values: y, unit: ROWS_TOGETHER }], |[y]| {
            with_products(y.values.len(), |products| {
                m.multiply_vector(kernels, Piece { first: y.first, values: &mut *products }, x);
                kernels.add(y.values, products);
            });
        });
    } else {
        let [m] = Ready::all([m], team, kernels, x.n(), &mut work.prepared);
        team.each(strips(m, y, Cut::cached(m, x.n(), kernels, team)), |mut strip: Strip<'_>| {
            strip.join(m, kernels, x, |y, products| kernels.add(y, products));
        });
    }
}

/// Some rows of a product, for some tokens.
pub(super) struct Strip<'a> {
    of: Ready<'a>,
    /// The first row.
    first: usize,
    /// The first token.
    token: usize,
    /// Whether its tokens are those that kernels want prepared rows for.
    tall: bool,
    y: Vec<&'a mut [f32]>,
}

impl Strip<'_> {
    pub(super) fn multiply(&mut self, kernels: &Kernels, x: &Operand) {
        let prepared = self.of.prepared().filter(|_| self.tall);
        self.of.matrix.multiply_strip(kernels, (self.first, self.token), &mut self.y, x, prepared);
    }

    /// Takes the product with the strip's rows of `other`, in scratch, and for each token `join`s it to what is in `y`.
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

/// How a product is cut into strips.
///
/// Where kernels want prepared rows, the tokens of whole tiles come first: strips of one tile, which a kernel makes
/// tables of for all rows of the strip. Other tokens are together in strips of some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Tokens in tiles.
    tiled: usize,
    /// Those of a tile.
    tile: usize,
    /// Rows of a strip of a tile.
    tall: usize,
    /// Rows of a strip of the other tokens.
    rows: usize,
}

impl Cut {
    /// A few strips for each thread: enough that the last one to finish is not waited for long.
    fn new(m: Ready<'_>, n: usize, kernels: &Kernels, team: &Team) -> Cut {
        const STRIPS_PER_THREAD: usize = 4;
        let rows = m.matrix.rows;
        let even = rows.div_ceil(team.len() * STRIPS_PER_THREAD).next_multiple_of(ROWS_TOGETHER);
        match kernels.tiling() {
            Tiling::Full { size, least } if m.prepared().is_some() => {
                let tiled = n - Some(n % size).filter(|&rest| rest < least).unwrap_or(0);
                Cut { tiled, tile: size, tall: tall(rows, tiled.div_ceil(size), team.len()), rows: even }
            }
            _ => Cut { tiled: 0, tile: n.max(1), tall: rows, rows: even },
        }
    }

    /// The same of a product that something is joined to: so few rows that a cache of the second level still has those
    /// of all other tokens when what joins them is there.
    pub(super) fn cached(m: Ready<'_>, n: usize, kernels: &Kernels, team: &Team) -> Cut {
        const CACHED: usize = 1 << 19;
        let cut = Cut::new(m, n, kernels, team);
        let cached = CACHED / (2 * size_of::<f32>() * (n - cut.tiled).max(1)) / ROWS_TOGETHER * ROWS_TOGETHER;
        Cut { rows: cached.clamp(ROWS_TOGETHER, cut.rows), ..cut }
    }
}

/// Rows of a strip such that of `n_tiles` tiles and as many strips as it takes, the thread with most to do has least:
/// whole pieces of prepared rows.
fn tall(rows: usize, n_tiles: usize, n_threads: usize) -> usize {
    /// Rows whose sums take as long to look up as tables to make.
    const TABLES: usize = 150;
    /// Sums of a tile for as many rows are half of a second-level cache.
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
        let tall = token < cut.tiled;
        let firsts = (0..n_rows).step_by(rows);
        strips.extend(firsts.map(|first| Strip { of, first, token, tall, y: Vec::new() }));
        for y in y.chunks_exact_mut(n_rows) {
            for (strip, y) in strips[before..].iter_mut().zip(y.chunks_mut(rows)) {
                strip.y.push(y);
            }
        }
    };
    let (tiled, others) = y.split_at_mut(cut.tiled * n_rows);
    for (i, y) in tiled.chunks_mut(cut.tile * n_rows).enumerate() {
        add(i * cut.tile, cut.tall, y);
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
    fn tall_strips_leave_no_thread_with_much_more_than_others() {
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
            let found = tall(rows, n_tiles, n_threads);
            assert_eq!(found, expected, "{rows} rows, {n_tiles} tiles, {n_threads} threads");
        }
    }
}
