//! The table of functions, and its methods: they check lengths, on which the functions rely.
#![expect(
    unsafe_code,
    reason = "calls functions compiled for an instruction set that `for_isa` found present"
)]

use half::f16;

use super::paired::Peak;
use super::prepared::Preparation;
use super::{ActTiles, Isa, Tiling, Values, tri5};
use crate::ops::rope::Pairing;
use crate::ops::screen::{self, Precision, ShadowRow, ShadowVector};
use crate::ops::softmax;
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{Columns, LINE_ROWS, column_bytes};
use crate::quant::i2s::{BLOCK, Ternary};
use crate::quant::tri5::Tri5;
use crate::trace::trace_timing;

type PickedGemv = unsafe fn(&mut [f32], Ternary<'_>, &[u32], &[i8], ActScale, f32);
type PickedTri5 = unsafe fn(&mut [f32], Tri5<'_>, &[u32], &[i8], ActScale, f32);
type PickedDots = unsafe fn(&mut [f64], &[u8], &[u32], &[i8]);
type Bounds = unsafe fn(&mut [f64], &[f64], &[ShadowRow], &ShadowVector, Precision) -> f64;
pub(super) type GemmTri5 = unsafe fn(&mut [&mut [f32]], Tri5<'_>, &ActTiles<'_>, f32, &mut Lines<u8>);
type Gemm = unsafe fn(&mut [&mut [f32]], Ternary<'_>, &ActTiles<'_>, f32, &mut Lines<u8>);

/// The kernels of one instruction set. Holding one is proof that this CPU has it.
pub struct Kernels {
    pub(super) isa: Isa,
    /// The table by name: that of the instruction set, and what else it takes.
    pub(super) name: &'static str,
    /// The kernel of ternary products, by name.
    pub(super) ternary: &'static str,
    /// The kernel of products with weights packed five to a byte, by name.
    pub(super) tri5: &'static str,
    /// How tokens are cut into the tiles of [`ActTiles`].
    pub(super) tiling: Tiling,
    /// Whether `gemm_i2s` multiplies pairs.
    pub(super) pairs: bool,
    pub(super) pair_up: unsafe fn(&mut [i8], usize, &mut Vec<Peak>) -> i32,
    pub(super) rms_norm: unsafe fn(&mut [f32], &[f32], &[f32], f32),
    pub(super) quantize: unsafe fn(&mut [i8], &[f32]) -> ActScale,
    pub(super) softmax: unsafe fn(&mut [f32]),
    pub(super) round_to_f16: unsafe fn(&mut [f32]),
    pub(super) relu2_mul: unsafe fn(&mut [f32], &[f32]),
    pub(super) silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(super) add: unsafe fn(&mut [f32], &[f32]),
    pub(super) rotate: unsafe fn(&mut [f32], &[f32], &[f32], Pairing),
    pub(super) gemv_f32: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(super) shadow_row: unsafe fn(&mut [u8], &mut [u8], &[f32]) -> ShadowRow,
    pub(super) bounds: Bounds,
    pub(super) dot_u4: unsafe fn(&mut [f64], &[u8], &ShadowVector),
    pub(super) dot_u2: PickedDots,
    pub(super) gemv_i2s: unsafe fn(&mut [f32], Ternary<'_>, &[i8], ActScale, f32),
    pub(super) gemv_i2s_picked: PickedGemv,
    pub(super) gemm_i2s: Gemm,
    /// `None` where rows are taken as they are.
    pub(super) preparation: Option<Preparation>,
    pub(super) pack_columns: unsafe fn(&mut [u8], Ternary<'_>, usize),
    pub(super) sum_columns: unsafe fn(&mut [i32], Columns<'_>, &[u32], &[i8]),
    pub(super) join_sums: unsafe fn(&mut [f32], &[i32], ActScale, f32),
    pub(super) pack_tri5: unsafe fn(&mut [u8], &[u8]),
    pub(super) unpack_tri5: unsafe fn(&mut [u8], &[u8]),
    pub(super) gemv_tri5: unsafe fn(&mut [f32], Tri5<'_>, &[i8], ActScale, f32),
    pub(super) gemv_tri5_picked: PickedTri5,
    /// `None` where the rows are unpacked first.
    pub(super) gemm_tri5: Option<GemmTri5>,
    pub(super) gemv_f16: unsafe fn(&mut [f32], &[f16], &[f32]),
    pub(super) attn_scores: unsafe fn(&mut [f32], &[f32], &[f16], usize, f32),
    pub(super) attn_mix: unsafe fn(&mut [f32], Values<'_>, &[f32]),
    pub(super) ask: unsafe fn(&[u16], usize),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}

/// Calls a function of the table.
macro_rules! dispatch {
    ($self:ident . $kernel:ident ( $($arg:expr),* )) => {
        dispatch!(($self.$kernel)($($arg),*))
    };
    ($kernel:tt ( $($arg:expr),* )) => {
        // SAFETY: a table leaves `isa.rs` only after the CPU reported every feature its functions are compiled for.
        unsafe { $kernel($($arg),*) }
    };
}
pub(super) use dispatch;

impl Kernels {
    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The table's own name: there may be several for an instruction set.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The kernel of ternary products, as trace lines and `-v` name it.
    #[must_use]
    pub fn ternary_name(&self) -> &'static str {
        self.ternary
    }

    /// The kernel of products with weights packed five to a byte, as trace lines name it.
    #[must_use]
    pub fn tri5_name(&self) -> &'static str {
        self.tri5
    }

    /// How tokens are cut into the tiles of [`ActTiles`].
    #[must_use]
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Whether [`Kernels::gemm_i2s`] multiplies pairs of values: see `paired.rs`.
    #[must_use]
    pub fn pairs(&self) -> bool {
        self.pairs
    }

    /// Turns the values of token `t` of a tile to those of pairs; returns what a product of them is too large by.
    ///
    /// - `row`: `[cols]`, whole blocks; `peaks`: those of this token are added
    ///
    /// # Panics
    /// If `row` is not whole blocks.
    pub fn pair_up(&self, row: &mut [i8], t: usize, peaks: &mut Vec<Peak>) -> i32 {
        assert!(row.len().is_multiple_of(BLOCK), "pair_up: {} values", row.len());
        dispatch!(self.pair_up(row, t, peaks))
    }

    /// See [`crate::ops::rms_norm::rms_norm`].
    pub fn rms_norm(&self, y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        dispatch!(self.rms_norm(y, x, weight, eps));
    }

    /// See [`crate::quant::act::quantize`].
    pub fn quantize(&self, q: &mut [i8], x: &[f32]) -> ActScale {
        dispatch!(self.quantize(q, x))
    }

    /// See [`crate::ops::softmax::softmax`].
    pub fn softmax(&self, scores: &mut [f32]) {
        dispatch!(self.softmax(scores));
    }

    /// See [`crate::ops::round::round_to_f16`].
    pub fn round_to_f16(&self, x: &mut [f32]) {
        dispatch!(self.round_to_f16(x));
    }

    /// See [`crate::ops::activation::relu2_mul`].
    pub fn relu2_mul(&self, gate: &mut [f32], up: &[f32]) {
        dispatch!(self.relu2_mul(gate, up));
    }

    /// See [`crate::ops::activation::silu_mul`].
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        dispatch!(self.silu_mul(gate, up));
    }

    /// See [`crate::ops::activation::add`].
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        dispatch!(self.add(x, y));
    }

    /// See [`crate::ops::rope::rotate`].
    pub fn rotate(&self, head: &mut [f32], cos: &[f32], sin: &[f32], pairing: Pairing) {
        dispatch!(self.rotate(head, cos, sin, pairing));
    }

    /// See [`crate::ops::screen::shadow_row`].
    pub fn shadow_row(&self, fours: &mut [u8], twos: &mut [u8], w: &[f32]) -> ShadowRow {
        dispatch!(self.shadow_row(fours, twos, w))
    }

    /// See [`crate::ops::screen::bounds`].
    pub fn bounds(
        &self,
        upper: &mut [f64],
        near: &[f64],
        rows: &[ShadowRow],
        x: &ShadowVector,
        precision: Precision,
    ) -> f64 {
        dispatch!(self.bounds(upper, near, rows, x, precision))
    }

    /// `y = w · x.values`, exactly, with `w` the four-bit plane of a shadow: values 0 to 15.
    ///
    /// - `y`: `[rows]`, overwritten; `w`: `[rows, cols / 2]`; `cols`, the length of `x`, whole runs of it
    ///
    /// # Panics
    /// If the lengths disagree.
    #[trace_timing(rows = y.len(), bytes = w.len())]
    pub fn dot_u4(&self, y: &mut [f64], w: &[u8], x: &ShadowVector) {
        let cols = x.values.len();
        assert!(
            cols.is_multiple_of(screen::RUN) && cols <= screen::MAX_COLS,
            "dot_u4: rows of {cols} values"
        );
        assert!(x.high.len() == cols && x.low.len() == cols, "dot_u4: a vector of one length");
        assert_eq!(w.len(), y.len() * (cols / 2), "dot_u4: w for {} rows of {cols}", y.len());
        dispatch!(self.dot_u4(y, w, x));
    }

    /// `y_i = w_r · x` for row `r` of each number in `picked`, exactly, with `w` the two-bit plane of a shadow: values
    /// 0 to 3.
    ///
    /// - `y`: `[picked]`, overwritten; `w`: `[rows, cols / 4]`; `x`: `[cols]`, whole runs of a shadow
    ///
    /// # Panics
    /// If the lengths disagree, or a row is picked that is not there.
    #[trace_timing(rows = picked.len(), bytes = picked.len() * x.len() / 4)]
    pub fn dot_u2(&self, y: &mut [f64], w: &[u8], picked: &[u32], x: &[i8]) {
        let rows = w.len() / (x.len() / 4).max(1);
        assert!(
            x.len().is_multiple_of(screen::RUN) && x.len() <= screen::MAX_COLS,
            "dot_u2: rows of {} values",
            x.len()
        );
        assert_eq!(w.len(), rows * (x.len() / 4), "dot_u2: w is not whole rows of {}", x.len());
        assert_eq!(y.len(), picked.len(), "dot_u2: one y for each picked row");
        assert!(picked.iter().all(|&r| (r as usize) < rows), "dot_u2: a row past the last of {rows}");
        dispatch!(self.dot_u2(y, w, picked, x));
    }

    /// `y = w · x` in f32, each sum in 32 lanes of fused multiply-adds (see [`crate::ops::dot32`]).
    ///
    /// - `y`: `[rows]`, overwritten; `w`: `[rows, cols]`; `x`: `[cols]`
    ///
    /// # Panics
    /// If the lengths disagree.
    #[trace_timing(rows = y.len(), cols = x.len())]
    pub fn gemv_f32(&self, y: &mut [f32], w: &[f32], x: &[f32]) {
        assert_eq!(w.len(), y.len() * x.len(), "gemv_f32: w for {} rows of {}", y.len(), x.len());
        dispatch!(self.gemv_f32(y, w, x));
    }

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

    /// `y = w · x` of f16 values in 32 f32 lanes: the output head.
    ///
    /// - `y`: `[rows]`, overwritten; `w`: `[rows, cols]`; `x`: `[cols]`, values an f16 can hold
    ///
    /// # Panics
    /// If a length disagrees with a shape above.
    #[trace_timing(rows = y.len(), cols = x.len(), bytes = 2 * w.len())]
    pub fn gemv_f16(&self, y: &mut [f32], w: &[f16], x: &[f32]) {
        assert_eq!(w.len(), y.len() * x.len(), "gemv_f16: w for {} rows of {}", y.len(), x.len());
        dispatch!(self.gemv_f16(y, w, x));
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

    /// Attention scores of several queries that share their keys: `score = (k_p · q) * scale`.
    ///
    /// - `scores`: `[n_query, n_pad]`, overwritten, minus infinity past the last position; `n_pad` is the number
    ///   of positions rounded up to a multiple of 32
    /// - `q`: `[n_query, head_dim]`, values an f16 can hold; `k`: `[n_pos, head_dim]`
    ///
    /// # Panics
    /// If a length disagrees with a shape above.
    #[trace_timing(n_pos = k.len() / head_dim, bytes = 2 * k.len())]
    pub fn attn_scores(&self, scores: &mut [f32], q: &[f32], k: &[f16], head_dim: usize, scale: f32) {
        let n_query = q.len() / head_dim;
        let n_pad = (k.len() / head_dim).next_multiple_of(softmax::PAD);
        assert!(n_query > 0 && q.len() == n_query * head_dim, "attn_scores: q of {} values", q.len());
        assert!(k.len().is_multiple_of(head_dim), "attn_scores: k of {} values", k.len());
        assert_eq!(scores.len(), n_query * n_pad, "attn_scores: [{n_query}, {n_pad}] scores");
        dispatch!(self.attn_scores(scores, q, k, head_dim, scale));
    }

    /// Mixes values by probability, for several queries that share them: `out_d = sum over p of v_p,d * p`.
    ///
    /// - `out`: `[n_query, head_dim]`, overwritten
    /// - `v`: the values of `n_pos` positions; `n_pad` is their number rounded up to a multiple of 32
    /// - `p`: `[n_query, n_pad]`, values an f16 can hold, zero past the last position
    ///
    /// # Panics
    /// If a length disagrees with a shape above.
    #[trace_timing(n_pos = v.n_pad(), bytes = 2 * v.n_pad() * v.head_dim())]
    pub fn attn_mix(&self, out: &mut [f32], v: Values<'_>, p: &[f32]) {
        let n_query = out.len() / v.head_dim();
        assert_eq!(out.len(), n_query * v.head_dim(), "attn_mix: out of {} values", out.len());
        assert_eq!(p.len(), n_query * v.n_pad(), "attn_mix: p for {n_query} queries");
        dispatch!(self.attn_mix(out, v, p));
    }

    /// Asks for the cache lines of every `step`-th value, which are about to be read or written one by one: all of them are
    /// fetched at once. Changes nothing but time.
    ///
    /// # Panics
    /// If `step` is 0.
    pub fn ask(&self, values: &[u16], step: usize) {
        dispatch!(self.ask(values, step));
    }
}
