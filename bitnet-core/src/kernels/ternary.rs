//! The table's products with ternary matrices, and what packs these.
#![expect(
    unsafe_code,
    reason = "calls functions compiled for an instruction set that `for_isa` found present"
)]

use super::table::dispatch;
use super::{ActTiles, Kernels, tri5};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{Columns, LINE_ROWS, column_bytes};
use crate::quant::i2s::{BLOCK, Ternary};
use crate::quant::tri5::Tri5;
use crate::trace::trace_timing;

impl Kernels {
    /// `y = scale * (w · q) / s`: a ternary matrix times one quantized vector.
    ///
    /// Sums in i32, then `f32(f32(f32(sum) / s) * scale)`.
    ///
    /// - `y`: `[rows]`, overwritten; `w`: `[rows, cols]`; `q`: `[cols]`, with its `s` and sum in `a`
    ///
    /// # Panics
    /// If a length disagrees with a shape above.
    #[trace_timing(rows = w.rows(), cols = w.cols(), bytes = w.bytes().len())]
    pub fn gemv_i2s(&self, y: &mut [f32], w: Ternary<'_>, q: &[i8], a: ActScale, scale: f32) {
        assert_eq!(y.len(), w.rows(), "gemv_i2s: y has {} values, w has {} rows", y.len(), w.rows());
        assert_eq!(q.len(), w.cols(), "gemv_i2s: q has {} values, w has {} columns", q.len(), w.cols());
        dispatch!(self.gemv_i2s(y, w, q, a, scale));
    }

    /// As [`Kernels::gemv_i2s`] for the rows in `picked` alone; the other values of `y` stay as they are.
    ///
    /// # Panics
    /// If a length disagrees with a shape, or a picked row is not there.
    #[trace_timing(rows = picked.len(), cols = w.cols(), bytes = picked.len() * w.row_bytes())]
    pub fn gemv_i2s_picked(
        &self,
        y: &mut [f32],
        w: Ternary<'_>,
        picked: &[u32],
        (q, a): (&[i8], ActScale),
        scale: f32,
    ) {
        assert_eq!(y.len(), w.rows(), "gemv_i2s_picked: y has {} values, w has {} rows", y.len(), w.rows());
        assert_eq!(
            q.len(),
            w.cols(),
            "gemv_i2s_picked: q has {} values, w has {} columns",
            q.len(),
            w.cols()
        );
        assert!(picked.iter().all(|&r| (r as usize) < w.rows()), "gemv_i2s_picked: a row past the last");
        dispatch!(self.gemv_i2s_picked(y, w, picked, q, a, scale));
    }

    /// `y_t = scale * (w · q_t) / s_t` for each token `t`: a ternary matrix times several quantized vectors.
    ///
    /// - `y`: for each token, `[rows]`, overwritten; `w`: `[rows, cols]`; `x`: `[n, cols]` in tiles of
    ///   [`Kernels::tiling`]
    /// - `panel`: scratch for unpacked weights, of any length
    ///
    /// Of a code 3, which is no ternary weight, the products are unspecified: where pairs are multiplied it overflows a
    /// byte.
    ///
    /// # Panics
    /// If a length disagrees with a shape above, or `x` is in the tiles of other kernels.
    #[trace_timing(rows = w.rows(), cols = w.cols(), tokens = x.n(), bytes = w.bytes().len())]
    pub fn gemm_i2s(
        &self,
        y: &mut [&mut [f32]],
        w: Ternary<'_>,
        x: &ActTiles<'_>,
        scale: f32,
        panel: &mut Lines<u8>,
    ) {
        self.check_gemm("gemm_i2s", y, (w.rows(), w.cols()), x);
        if y.is_empty() {
            return;
        }
        dispatch!(self.gemm_i2s(y, w, x, scale, panel));
    }

    /// Turns a block of columns, from `first` on, to [`Columns`].
    ///
    /// - `columns`: `[BLOCK, column_bytes(w.rows())]`, overwritten
    ///
    /// # Panics
    /// If `columns` is not as long, or the columns are not there.
    pub fn pack_columns(&self, columns: &mut [u8], w: Ternary<'_>, first: usize) {
        assert_eq!(columns.len(), BLOCK * column_bytes(w.rows()), "pack_columns: of {} rows", w.rows());
        assert!(
            first.is_multiple_of(BLOCK) && first < w.cols(),
            "pack_columns: from {first} of {}",
            w.cols()
        );
        dispatch!(self.pack_columns(columns, w, first));
    }

    /// Adds `code * q` of the columns in `picked` to the sum of each row, codes being 0 to 2.
    ///
    /// - `sums`: `[rows]`, filled up to whole lines; `q`: `[cols]`
    ///
    /// # Panics
    /// If a length disagrees with a shape, or a picked column is not there.
    #[trace_timing(rows = w.rows(), cols = picked.len(), bytes = picked.len() * column_bytes(w.rows()))]
    pub fn sum_columns(&self, sums: &mut [i32], w: Columns<'_>, picked: &[u32], q: &[i8]) {
        assert_eq!(sums.len(), w.rows().next_multiple_of(LINE_ROWS), "sum_columns: of {} rows", w.rows());
        assert_eq!(q.len(), w.cols(), "sum_columns: q has {} values, w {} columns", q.len(), w.cols());
        assert!(picked.iter().all(|&c| (c as usize) < w.cols()), "sum_columns: a column past the last");
        dispatch!(self.sum_columns(sums, w, picked, q));
    }

    /// `y = scale * (sum - a.sum) / s`, with `sum` the sums that several threads have of
    /// [`Kernels::sum_columns`] for a row: as [`Kernels::gemv_i2s`], to the bit.
    ///
    /// - `y`: `[rows]`, overwritten; `sums`: `[n, rows]` with rows filled up to whole lines
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn join_sums(&self, y: &mut [f32], sums: &[i32], a: ActScale, scale: f32) {
        let rows = y.len().next_multiple_of(LINE_ROWS);
        assert!(sums.len().is_multiple_of(rows.max(1)), "join_sums: sums of {rows} rows");
        dispatch!(self.join_sums(y, sums, a, scale));
    }

    /// Packs one row of I2_S codes five to a byte.
    ///
    /// - `row`: overwritten, as long as [`row_bytes`](crate::quant::tri5::row_bytes) says for the weights in `i2s`
    ///
    /// # Panics
    /// If it is not.
    pub fn pack_tri5(&self, row: &mut [u8], i2s: &[u8]) {
        dispatch!(self.pack_tri5(row, i2s));
    }

    /// Turns one row that was packed five to a byte back to I2_S codes.
    ///
    /// - `i2s`: overwritten; `row`: as long as [`row_bytes`](crate::quant::tri5::row_bytes) says for the weights in `i2s`
    ///
    /// # Panics
    /// If it is not.
    pub fn unpack_tri5(&self, i2s: &mut [u8], row: &[u8]) {
        dispatch!(self.unpack_tri5(i2s, row));
    }

    /// As [`Kernels::gemv_i2s`], of weights packed five to a byte.
    ///
    /// # Panics
    /// If a length disagrees with a shape.
    #[trace_timing(rows = w.rows(), cols = w.cols(), bytes = w.bytes().len())]
    pub fn gemv_tri5(&self, y: &mut [f32], w: Tri5<'_>, q: &[i8], a: ActScale, scale: f32) {
        assert_eq!(y.len(), w.rows(), "gemv_tri5: y has {} values, w has {} rows", y.len(), w.rows());
        assert_eq!(q.len(), w.cols(), "gemv_tri5: q has {} values, w has {} columns", q.len(), w.cols());
        dispatch!(self.gemv_tri5(y, w, q, a, scale));
    }

    /// As [`Kernels::gemv_i2s_picked`], of weights packed five to a byte.
    ///
    /// # Panics
    /// If a length disagrees with a shape, or a row is picked that is not there.
    #[trace_timing(rows = picked.len(), cols = w.cols(), bytes = picked.len() * w.row_bytes())]
    pub fn gemv_tri5_picked(
        &self,
        y: &mut [f32],
        w: Tri5<'_>,
        picked: &[u32],
        (q, a): (&[i8], ActScale),
        scale: f32,
    ) {
        assert_eq!(y.len(), w.rows(), "gemv_tri5_picked: y has {} values, w has {} rows", y.len(), w.rows());
        assert_eq!(q.len(), w.cols(), "gemv_tri5_picked: q has {} values, w {} columns", q.len(), w.cols());
        assert!(picked.iter().all(|&r| (r as usize) < w.rows()), "gemv_tri5_picked: a row past the last");
        dispatch!(self.gemv_tri5_picked(y, w, picked, q, a, scale));
    }

    /// As [`Kernels::gemm_i2s`], of weights packed five to a byte.
    ///
    /// # Panics
    /// If a length disagrees with a shape, or `x` is in the tiles of other kernels.
    #[trace_timing(rows = w.rows(), cols = w.cols(), tokens = x.n(), bytes = w.bytes().len())]
    pub fn gemm_tri5(
        &self,
        y: &mut [&mut [f32]],
        w: Tri5<'_>,
        x: &ActTiles<'_>,
        scale: f32,
        panel: &mut Lines<u8>,
    ) {
        self.check_gemm("gemm_tri5", y, (w.rows(), w.cols()), x);
        if y.is_empty() {
            return;
        }
        match self.gemm_tri5 {
            Some(gemm) => dispatch!(gemm(y, w, x, scale, panel)),
            None => tri5::gemm_unpacked(self, y, w, x, scale, panel),
        }
    }

    /// Panics if a product of a matrix `[rows, cols]` with many tokens has a length that disagrees.
    pub(super) fn check_gemm(
        &self,
        kernel: &str,
        y: &[&mut [f32]],
        (rows, cols): (usize, usize),
        x: &ActTiles<'_>,
    ) {
        assert_eq!(y.len(), x.n(), "{kernel}: y and x are of different numbers of tokens");
        assert!(y.iter().all(|y| y.len() == rows), "{kernel}: an output is not {rows} rows long");
        assert_eq!(x.cols(), cols, "{kernel}: x has {} columns, w has {cols}", x.cols());
        assert!(x.are_for(self), "{kernel}: tokens in the tiles of other kernels than {}", self.isa);
    }
}
