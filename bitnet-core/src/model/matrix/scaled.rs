//! Products with a ternary matrix whose rows, or blocks of 256 weights in a row, have scales of their own.
//!
//! The order of operations is that of a matrix with one scale, as far as possible:
//!
//! - rows: `y = f32(f32(f32(sum) / s) * scale_row)`, the same with the row's scale in place of the matrix's;
//! - blocks: each block's share is `f32(f32(sum_block) / s)`, with the sum exact in i32; the shares times their scales,
//!   products exact in f64, are added in f64 in the order of the blocks and rounded to f32 once. A row of one block has
//!   the bits of the rule above.
//!
//! `s` is the scale of the whole activation vector, quantized once. Blocks go to the kernels one at a time: correct,
//! the same bits everywhere, and slow; no such file is known, since models are trained with one scale for a matrix.

use super::{Format, Matrix, Scale};
use crate::kernels::{ActTiles, Kernels};
use crate::model::operand::Operand;
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::i2s::Ternary;

impl Matrix {
    /// Rows `first..` of `W x`, for tokens `t..` of `x`.
    ///
    /// - `y`: for each token, as many rows, overwritten
    pub(super) fn multiply_scaled(
        &self,
        kernels: &Kernels,
        (first, t): (usize, usize),
        y: &mut [&mut [f32]],
        x: &Operand,
    ) {
        let x = x.tiles().slice(t..t + y.len());
        let rows = y.first().map_or(0, |y| y.len());
        let w = self.ternary().slice(first, rows);
        let per_row = self.codes.scales.len() / self.rows.max(1);
        let scales = &self.codes.scales[first * per_row..][..rows * per_row];
        match self.format {
            Format::Ternary { scale: Scale::Rows, .. } => {
                match y {
                    [y] if x.n() == 1 => {
                        let (q, a) = x.single(0);
                        kernels.gemv_i2s(y, w, q, a, 1.0); // a product with 1 rounds nothing
                    }
                    _ => kernels.gemm_i2s(y, w, &x, 1.0, &mut Lines::default()),
                }
                for y in y {
                    for (y, scale) in y.iter_mut().zip(scales) {
                        *y *= scale;
                    }
                }
            }
            _ => self.multiply_blocks(kernels, w, scales.chunks_exact(per_row), y, &x),
        }
    }

    fn multiply_blocks<'a>(
        &self,
        kernels: &Kernels,
        w: Ternary<'_>,
        scales: impl Iterator<Item = &'a [f32]> + Clone,
        y: &mut [&mut [f32]],
        x: &ActTiles<'_>,
    ) {
        let mut vector = vec![0; w.cols()];
        for (t, y) in y.iter_mut().enumerate() {
            let s = x.unpack(t, &mut vector);
            for ((r, y), scales) in y.iter_mut().enumerate().zip(scales.clone()) {
                let block = self.cols / scales.len();
                let blocks = w.row(r).chunks_exact(block / 4).zip(vector.chunks_exact(block));
                let mut sum = 0.0;
                for ((codes, q), scale) in blocks.zip(scales) {
                    let a = ActScale { s, sum: q.iter().map(|q| i32::from(*q)).sum() };
                    let mut share = [0.0];
                    kernels.gemv_i2s(&mut share, Ternary::new(codes, 1, block), q, a, 1.0);
                    sum += f64::from(share[0]) * f64::from(*scale);
                }
                *y = sum as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gguf::{Access, Gguf, GgufWriter, TensorType};
    use crate::kernels::Isa;
    use crate::model::matrix::{Workspace, multiply};
    use crate::model::operand::{Norm, Wants};
    use crate::quant::ternary::{Packing, Reading};
    use crate::quant::testing::Rng;
    use crate::team::Team;

    const ROWS: usize = 137;
    /// So many that threads share them, where a kernel is for that.
    const TOKENS: usize = 70;

    /// The rule of this module, one weight after the other.
    fn by_hand(codes: &[i8], scales: &[f32], x: &[f32]) -> Vec<f32> {
        let cols = x.len() / TOKENS;
        let per_row = scales.len() / ROWS;
        let mut y = Vec::new();
        for x in x.chunks_exact(cols) {
            let mut q = vec![0; cols];
            let s = Kernels::for_isa(Isa::Scalar).unwrap().quantize(&mut q, x).s;
            for (row, scales) in codes.chunks_exact(cols).zip(scales.chunks_exact(per_row)) {
                let shares = row.chunks(cols / per_row).zip(q.chunks(cols / per_row)).map(|(w, q)| {
                    let sum: i32 = w.iter().zip(q).map(|(w, q)| i32::from(*w) * i32::from(*q)).sum();
                    sum as f32 / s
                });
                y.push(match scales {
                    [scale] => shares.sum::<f32>() * scale,
                    _ => shares.zip(scales).fold(0.0, |y, (v, s)| y + f64::from(v) * f64::from(*s)) as f32,
                });
            }
        }
        y
    }

    #[test]
    fn scales_of_their_own_are_never_averaged() {
        let mut rng = Rng(77);
        let team = Team::new(Some(3)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (ty, packing, cols, format) in [
            (TensorType::IQ2_BN, Packing::Iq2Bn, 192, Scale::Rows),
            (TensorType::IQ2_BN, Packing::Iq2Bn, 512, Scale::Rows),
            (TensorType::TQ2_0, Packing::Tq2_0, 256, Scale::Rows),
            (TensorType::TQ2_0, Packing::Tq2_0, 768, Scale::Blocks),
            (TensorType::TQ1_0, Packing::Tq1_0, 512, Scale::Blocks),
        ] {
            let codes = rng.codes(ROWS * cols);
            let scales: Vec<f32> = (0..ROWS * packing.scales_per_row(cols))
                .map(|_| (1 + rng.below(1000)) as f32 / 512.0)
                .collect();
            let path = dir.path().join("scaled.gguf");
            let mut writer = GgufWriter::new();
            writer.declare("w", ty, &[ROWS, cols]).unwrap();
            let bytes = packing.pack(&codes, (ROWS, cols), &scales).unwrap();
            writer.write_file(&path, |out| out.tensor("w", &bytes)).unwrap();
            let gguf = Arc::new(Gguf::open(&path, Access::Read).unwrap());

            let x: Vec<f32> = (0..TOKENS * cols).map(|_| rng.gauss()).collect();
            let expected = by_hand(&codes, &scales, &x);
            for kernels in Kernels::all() {
                let m = Matrix::new(&gguf, kernels, &Reading::default(), "w", [ROWS, cols]).unwrap();
                assert!(matches!(m.format(), Format::Ternary { scale, .. } if scale == format), "{ty}");
                for n in [1, 3, TOKENS] {
                    let mut got = Vec::new();
                    for x in x.chunks(n * cols) {
                        let mut operand = Operand::default();
                        let wants = Wants { int8: true, ..Wants::default() };
                        operand.load(&team, kernels, x, Norm::None, cols, wants);
                        let mut y = vec![f32::NAN; x.len() / cols * ROWS];
                        multiply(&team, kernels, [(&m, &mut y)], &operand, &mut Workspace::default());
                        got.extend(y);
                    }
                    let same = got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same && got.len() == expected.len(),
                        "{ty} [{ROWS}, {cols}] on {kernels:?}, {n} at a time"
                    );
                }
            }
        }
    }
}
