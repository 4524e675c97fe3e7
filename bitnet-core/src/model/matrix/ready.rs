//! Rows prepared once, by all threads, for a product with many tokens.

use super::{Format, Matrix, Packed, Scale};
use crate::kernels::Kernels;
use crate::kernels::prepared::{Prepared, ROWS};
use crate::pages::Lines;
use crate::quant::i2s::BLOCK;
use crate::team::Team;
use crate::trace::trace_timing;

/// A matrix, and its rows as kernels prepared them for a product with many tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready<'a> {
    pub(super) matrix: &'a Matrix,
    /// `None` if the kernels read rows as they are.
    prepared: Option<Prepared<'a>>,
}

impl<'a> Ready<'a> {
    /// Prepares matrices for products with `n` tokens, in one parallel region.
    ///
    /// - `room`: overwritten
    pub(super) fn all<const M: usize>(
        matrices: [&'a Matrix; M],
        team: &Team,
        kernels: &Kernels,
        n: usize,
        room: &'a mut Lines<u8>,
    ) -> [Ready<'a>; M] {
        let sizes = matrices.map(|m| m.prepared_bytes(kernels, n));
        room.resize(sizes.iter().sum());
        let mut rest = &mut room[..];
        let mut pieces = Vec::new();
        for (m, size) in matrices.into_iter().zip(sizes) {
            let part = rest.split_off_mut(..size).expect("room for every matrix");
            let piece = size / m.rows.div_ceil(ROWS).max(1);
            pieces.extend(
                part.chunks_mut(piece.max(1)).zip((0..).step_by(ROWS)).map(|(piece, r)| (m, r, piece)),
            );
        }
        team.each(pieces, |(m, first, piece): (&Matrix, usize, &mut [u8])| m.prepare(kernels, first, piece));
        let mut rest = &room[..];
        let mut ready = matrices.map(|matrix| Ready { matrix, prepared: None });
        for (ready, size) in ready.iter_mut().zip(sizes) {
            let bytes = rest.split_off(..size).expect("room for every matrix");
            let m = ready.matrix;
            ready.prepared = (size > 0).then(|| Prepared::new(bytes, m.rows, m.padded_cols()));
        }
        ready
    }

    /// Its prepared rows; `None` if the kernels read rows as they are.
    pub(super) fn prepared(&self) -> Option<Prepared<'a>> {
        self.prepared
    }
}

impl Matrix {
    fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(BLOCK)
    }

    /// Bytes of all rows once prepared for products with `n` tokens; 0 if `kernels` read rows as they are.
    #[must_use]
    pub fn prepared_bytes(&self, kernels: &Kernels, n: usize) -> usize {
        match self.format {
            Format::Ternary { scale: Scale::One(_), .. } => {
                kernels.prepared_bytes(self.rows, self.padded_cols(), n)
            }
            _ => 0,
        }
    }

    /// Prepares the piece of rows that begins with row `first`.
    #[trace_timing(matrix_prepare, tensor = self.name(), bytes = self.row_bytes() * ROWS.min(self.rows - first))]
    fn prepare(&self, kernels: &Kernels, first: usize, piece: &mut [u8]) {
        let n = ROWS.min(self.rows - first);
        match self.packed() {
            Packed::Four(w) => kernels.prepare(piece, w.slice(first, n)),
            Packed::Five(w) => kernels.prepare_tri5(piece, w.slice(first, n)),
        }
    }
}
