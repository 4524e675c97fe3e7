//! Products of many tokens with weights packed five to a byte, where no kernel reads them as they are.

use std::cell::RefCell;

use super::{ActTiles, Kernels};
use crate::pages::Lines;
use crate::quant::i2s::Ternary;
use crate::quant::tri5::Tri5;

/// Rows that are unpacked at a time: a multiple of every kernel's panel.
const ROWS: usize = 32;

thread_local! {
    /// Scratch that a thread keeps: as large as the largest rows it met.
    static UNPACKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// As [`Kernels::gemm_i2s`]: rows are unpacked a few at a time, which is little work beside their products with many
/// tokens.
pub(super) fn gemm_unpacked(
    kernels: &Kernels,
    y: &mut [&mut [f32]],
    w: Tri5<'_>,
    x: &ActTiles<'_>,
    scale: f32,
    panel: &mut Lines<u8>,
) {
    for first in (0..w.rows()).step_by(ROWS) {
        let n = ROWS.min(w.rows() - first);
        let mut y: Vec<&mut [f32]> = y.iter_mut().map(|y| &mut y[first..first + n]).collect();
        with_unpacked(kernels, w.slice(first, n), |w| kernels.gemm_i2s(&mut y, w, x, scale, panel));
    }
}

/// Runs `work` with the same rows, four weights to a byte.
pub(super) fn with_unpacked(kernels: &Kernels, w: Tri5<'_>, work: impl FnOnce(Ternary<'_>)) {
    let row_bytes = w.cols() / 4;
    UNPACKED.with_borrow_mut(|codes| {
        codes.resize(codes.len().max(w.rows() * row_bytes), 0);
        let codes = &mut codes[..w.rows() * row_bytes];
        for (r, codes) in codes.chunks_exact_mut(row_bytes).enumerate() {
            kernels.unpack_tri5(codes, w.row(r));
        }
        work(Ternary::new(codes, w.rows(), w.cols()));
    });
}
