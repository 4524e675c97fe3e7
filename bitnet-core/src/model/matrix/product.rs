//! The product of weight matrices with activations: which kernel each format goes to, for one token and for many.

use std::cell::RefCell;

use super::strips::{Cut, Strip, strips};
use super::{Format, Matrix, Packed, Ready, Scale, Workspace};
use crate::kernels::Kernels;
use crate::kernels::prepared::Prepared;
use crate::model::operand::Operand;
use crate::pages::Lines;
use crate::team::{Piece, Share, Team};
use crate::trace::trace_timing;

/// Threads get whole groups of this many rows, a multiple of every kernel's row group.
pub(super) const ROWS_TOGETHER: usize = 32;

impl Matrix {
    /// Output `r` of the product of an F16 matrix with `x`, whose values an f16 can hold.
    ///
    /// # Panics
    /// If the matrix is not F16, has no row `r`, or has rows of another length than `x`.
    #[must_use]
    pub fn logit(&self, kernels: &Kernels, r: usize, x: &[f32]) -> f32 {
        assert!(self.format == Format::F16, "{} is not F16", self.name());
        let mut y = [0.0];
        kernels.gemv_f16(&mut y, &self.halves()[r * self.cols..][..self.cols], x);
        y[0]
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
                        self.dequantize_row(first + r, row);
                        kernels.gemv_f32(std::slice::from_mut(y), row, x.float(0));
                    }
                });
            }
        }
    }

    /// Rows `first..` of `W x`, for the tokens from `t` on.
    ///
    /// - `y`: for each token, the outputs of as many rows, overwritten
    /// - `prepared`: all rows of the matrix, if kernels prepared them for these tokens
    #[trace_timing(
        matrix,
        tensor = self.name(),
        tokens = y.len(),
        bytes = y.first().map_or(0, |y| y.len() * self.row_bytes()),
        macs = y.iter().map(|y| y.len() * self.cols).sum::<usize>()
    )]
    pub(super) fn multiply_strip(
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
                        self.dequantize_row(first + r, row);
                        for (y, t) in y.iter_mut().zip(t..) {
                            kernels.gemv_f32(&mut y[r..=r], row, x.float(t));
                        }
                    }
                });
            }
        }
    }
}

// Scratch that a thread keeps, so that a step allocates nothing. Whoever uses it must not wait for other threads: a
// thread that waits takes other work, which may need the same scratch.
thread_local! {
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL: RefCell<Lines<u8>> = RefCell::new(Lines::default());
    static PRODUCTS: RefCell<Lines<f32>> = RefCell::new(Lines::default());
}

/// Runs `work`, which must not wait for other threads, with room for `n` products.
pub(super) fn with_products(n: usize, work: impl FnOnce(&mut [f32])) {
    PRODUCTS.with_borrow_mut(|products| {
        products.resize(n);
        work(products);
    });
}

/// Runs `work`, which must not wait for other threads, with room for a row of f32 weights.
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
        let mut all = Vec::new();
        for (m, (_, y)) in ready.into_iter().zip(products) {
            all.extend(strips(m, y, Cut::new(m, x.n(), kernels, team)));
        }
        // Those of the same tokens together, so that halves of the list are halves of the work.
        all.sort_by_key(|strip| strip.token);
        team.each(all, |mut strip| strip.multiply(kernels, x));
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
