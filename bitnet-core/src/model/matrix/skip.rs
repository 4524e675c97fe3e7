//! Products with one vector that do not read weights which cannot matter: rows of `up` behind closed gates, columns of
//! `down` behind zeros.
//!
//! Scattered rows or columns are read more slowly than a stream, since the hardware also prefetches what is skipped.
//! Where skipping does not pay, all are read.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::product::{ROWS_TOGETHER, add_product, with_products};
use super::strips::{Cut, Strip, strips};
use super::{Format, Matrix, Packed, Ready, Scale, Workspace};
use crate::kernels::Kernels;
use crate::model::config::Activation;
use crate::model::operand::Operand;
use crate::quant::columns::{Columns, LINE_ROWS, column_bytes};
use crate::team::{Piece, Share, Team};
use crate::trace::trace_timing;

/// Whether picking `n_picked` rows or columns is faster than reading all of them, `of` in number:
/// `receipts/kernels.txt` has the speeds at which one in two, one in three and fewer are read.
fn pays(n_picked: usize, of: usize) -> bool {
    5 * n_picked <= 3 * of
}

impl Matrix {
    /// As [`Matrix::multiply_vector`], but rows whose `gate` is not positive may get any finite value. Returns how many
    /// rows were not read.
    #[trace_timing(
        matrix_open,
        tensor = self.name(),
        rows = y.values.len(),
        open = gate.iter().filter(|&&gate| gate > 0.0).count()
    )]
    fn multiply_open(&self, kernels: &Kernels, scale: f32, y: Piece<'_>, gate: &[f32], x: &Operand) -> usize {
        let (q, a) = x.tiles().single(0);
        let Piece { first, values } = y;
        with_picked(gate.iter().map(|&gate| gate > 0.0), |picked| {
            if !pays(picked.len(), values.len()) {
                self.multiply_vector(kernels, Piece { first, values }, x);
                return 0;
            }
            values.fill(0.0);
            let rows = values.len();
            match self.packed() {
                Packed::Four(w) => {
                    kernels.gemv_i2s_picked(values, w.slice(first, rows), picked, (q, a), scale);
                }
                Packed::Five(w) => {
                    kernels.gemv_tri5_picked(values, w.slice(first, rows), picked, (q, a), scale);
                }
            }
            rows - picked.len()
        })
    }

    /// Whether every output for this vector is sure to be finite: a sum is at most `128 * cols`.
    fn is_finite(&self, scale: f32, x: &Operand) -> bool {
        let (_, a) = x.tiles().single(0);
        (128.0 * self.cols as f32 / a.s * scale).is_finite()
    }

    /// The part of every row's sum that comes from columns `range`, for the only token of `x`. Columns behind zeros are
    /// not read.
    ///
    /// - `sums`: `[rows]`, padded to whole lines, overwritten
    #[trace_timing(
        matrix_columns,
        tensor = self.name(),
        cols = range.len(),
        zeros = x.tiles().single(0).0[range.clone()].iter().filter(|&&q| q == 0).count()
    )]
    fn sum_columns(
        &self,
        kernels: &Kernels,
        w: Columns<'_>,
        range: Range<usize>,
        sums: &mut [i32],
        x: &Operand,
    ) {
        let (q, _) = x.tiles().single(0);
        let columns = w.slice(range.clone());
        with_picked(q[range.clone()].iter().map(|&q| q != 0), |picked| {
            sums.fill(0);
            kernels.sum_columns(sums, columns, picked, &q[range]);
        });
    }
}

// Scratch that a thread keeps, so that a step allocates nothing. Whoever uses it must not wait for other threads.
thread_local! {
    static PICKED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work`, which must not wait for other threads, with the numbers of the items that are `wanted`.
fn with_picked<R>(wanted: impl ExactSizeIterator<Item = bool>, work: impl FnOnce(&[u32]) -> R) -> R {
    PICKED.with_borrow_mut(|picked| {
        picked.resize(picked.len().max(wanted.len()), 0);
        let mut n = 0;
        for (i, wanted) in wanted.enumerate() {
            picked[n] = i as u32;
            n += usize::from(wanted);
        }
        work(&picked[..n])
    })
}

/// `y = act(W_gate x) * W_up x`, value by value. `W_up x` never leaves a thread's scratch.
///
/// For squared ReLU, one token, and ternary matrices: where the gate is not positive, `max(gate, 0)^2 * up` is zero
/// whatever finite value `up` has, so the rows of `W_up` behind it need not be read.
///
/// - `y`: `[n, rows]`, overwritten; `x`: `[n, cols]`
///
/// # Panics
/// If a length disagrees with a shape.
pub fn multiply_gated(
    team: &Team,
    kernels: &Kernels,
    activation: Activation,
    (gate, up, y): (&Matrix, &Matrix, &mut [f32]),
    x: &Operand,
    work: &mut Workspace,
) {
    assert!(gate.rows == up.rows && gate.cols == up.cols, "gate and up differ");
    assert!(y.len() == x.n() * gate.rows && x.cols() == gate.cols, "a gate of other shape");
    let combine = |gate: &mut [f32], up: &[f32]| match activation {
        Activation::Relu2 => kernels.relu2_mul(gate, up),
        Activation::Silu => kernels.silu_mul(gate, up),
    };
    if x.n() > 1 {
        let [gate, up] = Ready::all([gate, up], team, kernels, x.n(), &mut work.prepared);
        let cut = Cut::cached(gate, x.n(), kernels, team);
        return team.each(strips(gate, y, cut), |mut strip: Strip<'_>| {
            strip.multiply(kernels, x);
            strip.join(up, kernels, x, combine);
        });
    }
    // The scale of `up`, if its rows behind closed gates may be left out.
    let skipping = match (activation, gate.format, up.format) {
        (Activation::Relu2, Format::Ternary { .. }, Format::Ternary { scale: Scale::One(scale), .. }) => {
            Some(scale).filter(|&scale| up.is_finite(scale, x))
        }
        _ => None,
    };
    let n_skipped = AtomicU64::new(0);
    team.split([Share { values: y, unit: ROWS_TOGETHER }], |[y]| {
        let Piece { first, values: y } = y;
        gate.multiply_vector(kernels, Piece { first, values: y }, x);
        with_products(y.len(), |up_y| {
            let piece = Piece { first, values: &mut *up_y };
            match skipping {
                Some(scale) => {
                    let n = up.multiply_open(kernels, scale, piece, y, x);
                    n_skipped.fetch_add(n as u64, Ordering::Relaxed);
                }
                None => up.multiply_vector(kernels, piece, x),
            }
            combine(y, up_y);
        });
    });
    work.skip(n_skipped.into_inner() * up.row_bytes() as u64);
}

/// `y += W x`, for an `x` that may be mostly zeros: with one token and a copy of `W` by columns, columns behind zeros
/// are not read. The sums are of integers, and so the same in any order.
///
/// - `y`: `[n, rows]`; `x`: `[n, cols]`
///
/// # Panics
/// If a length disagrees with a shape.
pub fn add_sparse_product(
    team: &Team,
    kernels: &Kernels,
    (m, y): (&Matrix, &mut [f32]),
    x: &Operand,
    work: &mut Workspace,
) {
    let (Some(w), Format::Ternary { scale: Scale::One(scale), .. }, 1) = (m.columns(), m.format, x.n())
    else {
        return add_product(team, kernels, (m, y), x, work);
    };
    let n_picked = m.cols - x.n_zeros().min(m.cols);
    if !pays(n_picked, m.cols) {
        return add_product(team, kernels, (m, y), x, work);
    }
    assert!(x.cols() == m.cols && y.len() == m.rows, "{}: activations or outputs of other shape", m.name());
    let (rows, n) = (m.rows.next_multiple_of(LINE_ROWS), team.n_threads());
    work.sums.resize(n * rows);
    team.split([Share { values: &mut work.sums, unit: rows }], |[sums]| {
        for (i, sums) in (sums.first / rows..).zip(sums.values.chunks_exact_mut(rows)) {
            m.sum_columns(kernels, w, i * m.cols / n..(i + 1) * m.cols / n, sums, x);
        }
    });
    let (_, a) = x.tiles().single(0);
    work.products.resize(m.rows);
    kernels.join_sums(&mut work.products, &work.sums, a, scale);
    kernels.add(y, &work.products);
    work.skip(m.n_bytes().saturating_sub((n_picked * column_bytes(m.rows)) as u64));
}
