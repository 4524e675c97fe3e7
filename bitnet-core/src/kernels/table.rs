//! The table of functions, and its methods: they check lengths, on which the functions rely.
#![expect(
    unsafe_code,
    reason = "calls functions compiled for an instruction set that `for_isa` found present"
)]

use half::f16;

use super::paired::Peak;
use super::prepared::Preparation;
use super::{ActTiles, Isa, Tiling, Values};
use crate::ops::rope::Pairing;
use crate::ops::screen::{self, Precision, ShadowRow, ShadowVector};
use crate::ops::softmax;
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::Columns;
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
