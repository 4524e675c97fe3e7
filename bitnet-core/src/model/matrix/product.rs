//! The product of weight matrices with activations: cut among threads, and which kernel each format goes to.

use std::cell::RefCell;

use super::{Format, Matrix, Packed, Scale};
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
    ) {
        let rows = y.first().map_or(0, |y| y.len());
        match self.format {
            Format::Ternary { scale: Scale::One(scale), .. } => {
                let x = x.tiles().slice(t..t + y.len());
                PANEL.with_borrow_mut(|panel| match self.packed() {
                    Packed::Four(w) => kernels.gemm_i2s(y, w.slice(first, rows), &x, scale, panel),
                    Packed::Five(w) => kernels.gemm_tri5(y, w.slice(first, rows), &x, scale, panel),
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
        let strips =
            products.into_iter().flat_map(|(m, y)| strips(m, y, Cut::new(m.rows, x.n(), kernels, team)));
        let mut strips: Vec<Strip<'_>> = strips.collect();
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
pub fn add_product(team: &Team, kernels: &Kernels, (m, y): (&Matrix, &mut [f32]), x: &Operand) {
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
        team.each(strips(m, y, Cut::cached(m.rows, x.n(), kernels, team)), |mut strip: Strip<'_>| {
            strip.join(m, kernels, x, |y, products| kernels.add(y, products));
        });
    }
}

/// Some rows of a product, for some tokens.
pub(super) struct Strip<'a> {
    matrix: &'a Matrix,
    /// The first row.
    first: usize,
    /// The first token.
    token: usize,
    y: Vec<&'a mut [f32]>,
}

impl Strip<'_> {
    pub(super) fn multiply(&mut self, kernels: &Kernels, x: &Operand) {
        self.matrix.multiply_strip(kernels, (self.first, self.token), &mut self.y, x);
    }

    /// Takes the product with the strip's rows of `matrix`, in scratch, and for each token `join`s it to what is in `y`.
    pub(super) fn join(
        &mut self,
        matrix: &Matrix,
        kernels: &Kernels,
        x: &Operand,
        join: impl Fn(&mut [f32], &[f32]),
    ) {
        let rows = self.y.first().map_or(0, |y| y.len());
        with_products(self.y.len() * rows, |products| {
            let y = products.chunks_exact_mut(rows).collect();
            let mut scratch = Strip { matrix, y, ..*self };
            scratch.multiply(kernels, x);
            self.y.iter_mut().zip(scratch.y).for_each(|(y, products)| join(y, products));
        });
    }
}

/// How a product is cut into strips: of so many rows and so many tokens, or what is left of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    rows: usize,
    tokens: usize,
}

impl Cut {
    /// A few strips for each thread: enough that the last one to finish is not waited for long.
    fn new(rows: usize, n: usize, kernels: &Kernels, team: &Team) -> Cut {
        const STRIPS_PER_THREAD: usize = 4;
        Cut::tall(rows, n, kernels.tiling(), team.len()).unwrap_or_else(|| {
            let rows = rows.div_ceil(team.len() * STRIPS_PER_THREAD).next_multiple_of(ROWS_TOGETHER);
            Cut { rows, tokens: n }
        })
    }

    /// The same of a product that something is joined to: so few rows that a cache of the second level still has those
    /// of all `n` tokens when what joins them is there.
    pub(super) fn cached(rows: usize, n: usize, kernels: &Kernels, team: &Team) -> Cut {
        const CACHED: usize = 1 << 19;
        Cut::tall(rows, n, kernels.tiling(), team.len()).unwrap_or_else(|| {
            let cached = CACHED / (2 * size_of::<f32>() * n) / ROWS_TOGETHER * ROWS_TOGETHER;
            let most = Cut::new(rows, n, kernels, team).rows;
            Cut { rows: cached.clamp(ROWS_TOGETHER, most), tokens: n }
        })
    }

    /// For a kernel that makes something of a tile of tokens, which every row of a strip then uses: tiles are cut before
    /// rows.
    fn tall(rows: usize, n: usize, tiling: Tiling, n_threads: usize) -> Option<Cut> {
        /// Sums of a tile for as many rows are half of a second-level cache.
        const MOST_ROWS: usize = 4096;
        let Tiling::Full { size, least } = tiling else { return None };
        if n < least {
            return None;
        }
        let n_tiles = n.div_ceil(size);
        let tokens = n_tiles.div_ceil(n_tiles.min(n_threads)) * size;
        let n_strips = n_threads.div_ceil(n.div_ceil(tokens)).max(rows.div_ceil(MOST_ROWS));
        Some(Cut { rows: rows.div_ceil(n_strips).next_multiple_of(ROWS_TOGETHER), tokens })
    }
}

/// Cuts a product into strips.
pub(super) fn strips<'a>(matrix: &'a Matrix, y: &'a mut [f32], cut: Cut) -> Vec<Strip<'a>> {
    let mut strips = Vec::new();
    for (i, tokens) in y.chunks_mut(cut.tokens * matrix.rows).enumerate() {
        let before = strips.len();
        let (token, firsts) = (i * cut.tokens, (0..matrix.rows).step_by(cut.rows));
        strips.extend(firsts.map(|first| Strip { matrix, first, token, y: Vec::new() }));
        for y in tokens.chunks_exact_mut(matrix.rows) {
            for (strip, y) in strips[before..].iter_mut().zip(y.chunks_mut(cut.rows)) {
                strip.y.push(y);
            }
        }
    }
    strips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_tables_are_made_tokens_are_cut_before_rows() {
        let tiling = Tiling::Full { size: 32, least: 16 };
        let cut = |rows, n, n_threads| Cut::tall(rows, n, tiling, n_threads);
        assert_eq!(cut(2560, 15, 2), None);
        assert_eq!(Cut::tall(2560, 512, Tiling::Even(12), 2), None);
        for ((rows, n, n_threads), (strip_rows, tokens)) in [
            ((2560, 128, 1), (2560, 128)),
            ((2560, 128, 2), (2560, 64)),
            ((2560, 20, 2), (1280, 32)),
            ((6912, 128, 2), (3456, 64)),
            ((2560, 70, 2), (2560, 64)),
            ((2560, 128, 8), (1280, 32)),
            ((2560, 128, 3), (1280, 64)),
            ((640, 512, 8), (640, 64)),
        ] {
            let expected = Some(Cut { rows: strip_rows, tokens });
            assert_eq!(cut(rows, n, n_threads), expected, "{rows} rows, {n} tokens, {n_threads} threads");
        }
    }
}
