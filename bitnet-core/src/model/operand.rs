//! Activations in the forms that matrices read: made once for each vector, and shared by all matrices that read it.

use crate::kernels::{ActTiles, Kernels, TileMut, Tokens};
use crate::pages::Lines;
use crate::quant::i2s::BLOCK;
use crate::team::Team;
use crate::trace::trace_timing;

/// Which forms of the activations the matrices of a layer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// int8 with one scale for each token: ternary matrices.
    pub int8: bool,
    /// Rounded to f16: F16 matrices.
    pub rounded: bool,
    /// f32 as they are: other dense matrices.
    pub float: bool,
}

/// The right-hand side of matrix products: `n` vectors of `cols` activations.
///
/// In the int8 form, each vector is padded with zeros to whole blocks, like the rows of ternary matrices.
#[derive(Debug, Default)]
pub struct Operand {
    n: usize,
    cols: usize,
    tokens: Tokens,
    /// One scratch row for each tile of tokens.
    rows: Lines<i8>,
    /// `[n, cols]` where this form or the rounded one is wanted. Otherwise one scratch row for each tile: a whole
    /// prompt's vectors would only drive weights and outputs out of the caches.
    float: Lines<f32>,
    /// `[n, cols]`, where this form is wanted.
    rounded: Lines<f32>,
}

/// What one thread prepares: the tokens of one tile.
struct Part<'a> {
    x: &'a [f32],
    float: &'a mut [f32],
    row: &'a mut [i8],
    tile: TileMut<'a>,
}

impl Operand {
    /// An operand with room for `n` vectors of `cols` activations; `None` if there is no memory for it. Loading a
    /// single vector of up to `cols` then allocates nothing.
    #[must_use]
    pub fn with_capacity(kernels: &Kernels, n: usize, cols: usize) -> Option<Operand> {
        let q_cols = cols.checked_next_multiple_of(BLOCK)?;
        let floats = || Lines::zeroed(n.checked_mul(cols)?);
        Some(Operand {
            n,
            cols,
            tokens: Tokens::with_capacity(kernels, n, q_cols)?,
            rows: Lines::zeroed(n.div_ceil(kernels.tiling().size()).checked_mul(q_cols)?)?,
            float: floats()?,
            rounded: floats()?,
        })
    }

    /// Normalizes `x`, `[n, cols]`, as `norm` says, and makes the forms of it that are wanted.
    ///
    /// # Panics
    /// If `x` is not whole rows.
    #[trace_timing(operand, cols = cols)]
    pub fn load(
        &mut self,
        team: &Team,
        kernels: &Kernels,
        x: &[f32],
        norm: Norm<'_>,
        cols: usize,
        wants: Wants,
    ) {
        assert!(x.len().is_multiple_of(cols), "operand: {} values are not rows of {cols}", x.len());
        (self.n, self.cols) = (x.len() / cols, cols);
        let kept = wants.float || wants.rounded;
        let prepare = |mut part: Part<'_>| {
            for (t, x) in part.x.chunks_exact(cols).enumerate() {
                let y = &mut part.float[if kept { t * cols } else { 0 }..][..cols];
                match norm {
                    Norm::Rms { weight, eps } => kernels.rms_norm(y, x, weight, eps),
                    Norm::None => y.copy_from_slice(x),
                }
                if wants.int8 {
                    let (row, rest) = part.row.split_at_mut(cols);
                    let a = kernels.quantize(row, y);
                    rest.fill(0);
                    part.tile.put(kernels, t, part.row, a);
                }
            }
        };
        let parts = self.parts(kernels, x, kept);
        if x.len() == cols {
            parts.for_each(prepare);
        } else {
            team.each(parts.collect(), prepare);
        }
        if wants.rounded {
            self.rounded.resize(x.len());
            self.rounded.copy_from_slice(&self.float);
            kernels.round_to_f16(&mut self.rounded);
        }
    }

    /// The tokens of each tile, with the places to write their forms to.
    ///
    /// - `kept`: whether the float form of every token is kept
    fn parts<'a>(
        &'a mut self,
        kernels: &Kernels,
        x: &'a [f32],
        kept: bool,
    ) -> impl Iterator<Item = Part<'a>> {
        let (cols, q_cols) = (self.cols, self.cols.next_multiple_of(BLOCK));
        let n_tiles = self.n.div_ceil(kernels.tiling().size());
        self.tokens.resize(kernels, self.n, q_cols);
        self.rows.resize(n_tiles * q_cols);
        self.float.resize(if kept { x.len() } else { n_tiles * cols });
        let (mut x, mut float) = (x, &mut self.float[..]);
        self.tokens.tiles_mut().zip(self.rows.chunks_exact_mut(q_cols)).map(move |(tile, row)| {
            let n = tile.n() * cols;
            let x = x.split_off(..n).expect("x has all vectors");
            let float = float.split_off_mut(..if kept { n } else { cols }).expect("room for every tile");
            Part { x, float, row, tile }
        })
    }

    /// Number of vectors.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Activations in a vector.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The int8 form, if that was wanted: vectors padded with zeros to whole blocks.
    #[must_use]
    pub fn tiles(&self) -> ActTiles<'_> {
        self.tokens.tiles()
    }

    /// Zeros among the int8 values of the only vector, if that form was wanted. Columns behind them need not be read.
    ///
    /// # Panics
    /// If there are several vectors.
    #[must_use]
    pub fn n_zeros(&self) -> usize {
        let (q, _) = self.tiles().single(0);
        // A byte counts those of a block, and many such counters fit a register.
        let zeros_of = |block: &[i8]| block.iter().map(|&q| u8::from(q == 0)).sum::<u8>();
        q[..self.cols].chunks(BLOCK).map(|block| usize::from(zeros_of(block))).sum()
    }

    /// Vector `t`, rounded to f16 and widened again, if that was wanted.
    ///
    /// # Panics
    /// If there is no vector `t`.
    #[must_use]
    pub fn rounded(&self, t: usize) -> &[f32] {
        &self.rounded[t * self.cols..][..self.cols]
    }

    /// Vector `t` as it is, if that was wanted.
    ///
    /// # Panics
    /// If there is no vector `t`.
    #[must_use]
    pub fn float(&self, t: usize) -> &[f32] {
        &self.float[t * self.cols..][..self.cols]
    }
}

/// What happens to a vector before it is quantized.
#[derive(Debug, Clone, Copy)]
pub enum Norm<'a> {
    /// Root mean square norm with this weight.
    Rms {
        /// `[cols]`.
        weight: &'a [f32],
        /// Added to the mean square.
        eps: f32,
    },
    /// Nothing.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_wider_vectors_before() {
        let team = Team::new(Some(1)).unwrap();
        let wants = Wants { int8: true, ..Wants::default() };
        for kernels in Kernels::all() {
            for n in [1, 3] {
                let mut x = Operand::default();
                for cols in [256, 192] {
                    x.load(&team, kernels, &vec![1.0; n * cols], Norm::None, cols, wants);
                    for t in 0..n {
                        let mut row = [1; 256];
                        x.tiles().unpack(t, &mut row);
                        let filled = row.iter().zip(0..).all(|(&q, i)| q == if i < cols { 127 } else { 0 });
                        assert!(filled, "{}: token {t} of {n}, {cols} wide: {row:?}", kernels.isa());
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_are_counted_in_whole_blocks_and_past_them_but_not_in_the_padding() {
        let team = Team::new(Some(1)).unwrap();
        let wants = Wants { int8: true, ..Wants::default() };
        let mut operand = Operand::default();
        for cols in [1, 127, 128, 129, 300, 1000] {
            for others in [0, 1, 2, 3, 128] {
                let x: Vec<f32> = (0..cols).map(|i| if i % 128 < others { 1.0 } else { 0.0 }).collect();
                let expected = x.iter().filter(|&&x| x == 0.0).count();
                operand.load(&team, Kernels::detect(), &x, Norm::None, cols, wants);
                assert_eq!(operand.n_zeros(), expected, "{cols} columns, {others} of a block not zero");
            }
        }
    }
}
