//! What a kernel makes of the rows of a ternary matrix before it multiplies many tokens with them.
//!
//! Threads make it together, a piece of [`ROWS`] rows at a time; then each of them reads what it wants of it, for some
//! tokens. Only sums that are looked up ask for it: `avx2sums.rs` says what it is.
#![expect(
    unsafe_code,
    reason = "calls functions compiled for an instruction set that `for_isa` found present"
)]

use super::table::dispatch;
use super::{ActTiles, Kernels, Tiling, tri5};
use crate::pages::Lines;
use crate::quant::i2s::Ternary;
use crate::quant::tri5::Tri5;
use crate::trace::trace_timing;

/// Rows of a piece.
pub const ROWS: usize = 128;

/// The functions of a table that makes something of rows.
pub(super) struct Preparation {
    /// Bytes of a piece of so many columns.
    pub(super) piece_bytes: fn(usize) -> usize,
    /// All pieces of some rows.
    pub(super) prepare: unsafe fn(&mut [u8], Ternary<'_>),
    pub(super) gemm: PreparedGemm,
}

type PreparedGemm = unsafe fn(&mut [&mut [f32]], Prepared<'_>, &ActTiles<'_>, f32, &mut Lines<u8>);

/// A view of rows as [`Kernels::prepare`] left them.
#[derive(Debug, Clone, Copy)]
pub struct Prepared<'a> {
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Prepared<'a> {
    /// - `bytes`: as many as [`Kernels::prepared_bytes`] says
    #[must_use]
    pub fn new(bytes: &'a [u8], rows: usize, cols: usize) -> Prepared<'a> {
        Prepared { bytes, rows, cols }
    }

    /// `n` rows from `first` on.
    ///
    /// # Panics
    /// If they do not begin with a piece, or end elsewhere than at the end of one or of all.
    #[must_use]
    pub fn slice(self, first: usize, n: usize) -> Prepared<'a> {
        let end = first + n;
        let whole = first.is_multiple_of(ROWS) && (end == self.rows || end.is_multiple_of(ROWS));
        assert!(whole && end <= self.rows, "rows {first}..{end} of {} in pieces", self.rows);
        let piece = self.bytes.len() / self.rows.div_ceil(ROWS).max(1);
        let bytes = &self.bytes[first / ROWS * piece..end.div_ceil(ROWS) * piece];
        Prepared { bytes, rows: n, cols: self.cols }
    }

    /// All pieces, one after the other.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }
}

impl Kernels {
    /// Bytes of what these kernels make of `rows` rows of `cols` weights for products with `n` tokens; zero where they
    /// take the rows as they are.
    #[must_use]
    pub fn prepared_bytes(&self, rows: usize, cols: usize, n: usize) -> usize {
        match (&self.preparation, self.tiling) {
            (Some(preparation), Tiling::Full { least, .. }) if rows >= ROWS && n >= least => {
                rows.div_ceil(ROWS) * (preparation.piece_bytes)(cols)
            }
            _ => 0,
        }
    }

    /// Makes of the rows of `w` what [`Kernels::gemm_prepared`] reads.
    ///
    /// - `prepared`: whole pieces, overwritten
    ///
    /// # Panics
    /// If these kernels make nothing of rows, or the length disagrees.
    #[trace_timing(rows = w.rows(), cols = w.cols(), bytes = w.bytes().len())]
    pub fn prepare(&self, prepared: &mut [u8], w: Ternary<'_>) {
        let preparation = self.preparation();
        let n_bytes = w.rows().div_ceil(ROWS) * (preparation.piece_bytes)(w.cols());
        assert_eq!(prepared.len(), n_bytes, "prepare: [{}, {}]", w.rows(), w.cols());
        dispatch!((preparation.prepare)(prepared, w));
    }

    /// The same of weights packed five to a byte.
    ///
    /// # Panics
    /// As [`Kernels::prepare`].
    pub fn prepare_tri5(&self, prepared: &mut [u8], w: Tri5<'_>) {
        tri5::with_unpacked(self, w, |w| self.prepare(prepared, w));
    }

    /// As [`Kernels::gemm_i2s`], of rows that are prepared.
    ///
    /// # Panics
    /// If a length disagrees, or `x` is in the tiles of other kernels.
    #[trace_timing(rows = w.rows, cols = w.cols, tokens = x.n(), bytes = w.bytes.len())]
    pub fn gemm_prepared(
        &self,
        y: &mut [&mut [f32]],
        w: Prepared<'_>,
        x: &ActTiles<'_>,
        scale: f32,
        panel: &mut Lines<u8>,
    ) {
        let preparation = self.preparation();
        let n_bytes = w.rows.div_ceil(ROWS) * (preparation.piece_bytes)(w.cols);
        assert_eq!(w.bytes.len(), n_bytes, "gemm_prepared: w of [{}, {}]", w.rows, w.cols);
        self.check_gemm("gemm_prepared", y, (w.rows, w.cols), x);
        dispatch!((preparation.gemm)(y, w, x, scale, panel));
    }

    fn preparation(&self) -> &Preparation {
        self.preparation.as_ref().unwrap_or_else(|| panic!("{self:?} take rows as they are"))
    }
}
