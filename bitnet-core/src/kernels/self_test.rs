//! A self-test for people: every kernel of an instruction set executed on this very CPU.
//!
//! The battery that developers run looks at every length and every remainder; this one takes milliseconds, needs no
//! test build and answers whether *this* machine computes what it should.

use half::f16;

use super::isa::tables;
use super::prepared::Prepared;
use super::values::ROW;
use super::{Isa, Kernels, Tokens, Values};
use crate::error::{Error, Result};
use crate::ops::rope::Pairing;
use crate::ops::screen::{Precision, ShadowVector};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{Columns, LINE_ROWS, column_bytes};
use crate::quant::i2s::{self, BLOCK, Ternary};
use crate::quant::tri5::{self, Tri5};
use crate::rng::SplitMix64;

/// Executes every kernel of every table of `isa` and compares bits: ternary products with integer arithmetic done here, everything
/// else with the scalar kernels.
///
/// # Errors
/// If this CPU or this build does not have `isa`, or a result differs; the error names the kernel.
pub fn self_test(isa: Isa) -> Result<()> {
    Kernels::for_isa(isa)?;
    tables(isa).into_iter().try_for_each(test_table)
}

fn test_table(kernels: &'static Kernels) -> Result<()> {
    let bench = Bench { kernels, scalar: Kernels::for_isa(Isa::Scalar)? };
    // Rows that leave remainders of every row group, and as many as sums are looked up for; columns of one block, an odd
    // number of them and a real width.
    for (rows, cols) in [(1, 128), (37, 384), (67, 2560), (131, 384)] {
        bench.ternary(rows, cols)?;
        bench.dense(rows, cols)?;
    }
    for n in [1, 31, 96, 2560] {
        bench.elementwise(n)?;
    }
    for n_pos in [1, 33, 100, 2 * ROW + 40] {
        bench.attention(n_pos)?;
    }
    for cols in [128, 384, 2560] {
        bench.shadow(cols)?;
    }
    Ok(())
}

/// Scale of the ternary weights.
const SCALE: f32 = 0.37;

/// What is tested, and what it is held against.
struct Bench {
    kernels: &'static Kernels,
    scalar: &'static Kernels,
}

impl Bench {
    fn ternary(&self, rows: usize, cols: usize) -> Result<()> {
        let k = self.kernels;
        let mut random = SplitMix64(rows as u64);
        let weights: Vec<i8> = (0..rows * cols).map(|_| random.below(3) as i8 - 1).collect();
        let packed = i2s::pack(&weights);
        let w = Ternary::new(&packed, rows, cols);
        let n = k.tiling().size() + 1;
        let (mut q, mut expected) = (vec![0i8; n * cols], vec![0.0; n * rows]);
        let mut scales = Vec::with_capacity(n);
        for (q, y) in q.chunks_exact_mut(cols).zip(expected.chunks_exact_mut(rows)) {
            let x = floats(&mut random, cols);
            let mut own = vec![0; cols];
            let a = self.scalar.quantize(q, &x);
            if k.quantize(&mut own, &x) != a || own != q {
                return Err(self.differs("quantize", &format!("{cols} values")));
            }
            for (y, w) in y.iter_mut().zip(weights.chunks_exact(cols)) {
                let sum: i32 = w.iter().zip(&*q).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
                *y = sum as f32 / a.s * SCALE;
            }
            scales.push(a);
        }
        let what = format!("[{rows}, {cols}]");
        let mut y = vec![0.0; rows];
        k.gemv_i2s(&mut y, w, &q[..cols], scales[0], SCALE);
        self.same("gemv_i2s", &what, &y, &expected[..rows])?;
        self.other_ternary(&what, w, (&q[..cols], scales[0]), &expected[..rows])?;
        self.columns(&what, w, (&q[..cols], scales[0]), &expected[..rows])?;
        self.many_tokens(&what, w, &Tokens::pack(k, &q, &scales), &expected)
    }

    /// The same products with many tokens: of rows as they are, five weights to a byte, and prepared.
    fn many_tokens(&self, what: &str, w: Ternary<'_>, tokens: &Tokens, expected: &[f32]) -> Result<()> {
        let k = self.kernels;
        let (rows, cols, n) = (w.rows(), w.cols(), expected.len() / w.rows());
        let what = format!("{what}, {n} tokens");
        let check = |kernel, multiply: &dyn Fn(&mut [&mut [f32]])| {
            let mut y = vec![0.0; n * rows];
            multiply(&mut y.chunks_exact_mut(rows).collect::<Vec<_>>());
            self.same(kernel, &what, &y, expected)
        };
        let row_bytes = tri5::row_bytes(cols);
        let mut fives = vec![0; rows * row_bytes];
        for (r, row) in fives.chunks_exact_mut(row_bytes).enumerate() {
            k.pack_tri5(row, w.row(r));
        }
        let fives = Tri5::new(&fives, rows, cols);
        let panel = Lines::default;
        check("gemm_i2s", &|y| k.gemm_i2s(y, w, &tokens.tiles(), SCALE, &mut panel()))?;
        check("gemm_tri5", &|y| k.gemm_tri5(y, fives, &tokens.tiles(), SCALE, &mut panel()))?;
        let n_bytes = k.prepared_bytes(rows, cols, n);
        if n_bytes == 0 {
            return Ok(());
        }
        let mut prepared = vec![0; n_bytes];
        let multiply = |prepared: &[u8], y: &mut [&mut [f32]]| {
            let prepared = Prepared::new(prepared, rows, cols);
            k.gemm_prepared(y, prepared, &tokens.tiles(), SCALE, &mut panel());
        };
        k.prepare(&mut prepared, w);
        check("prepare", &|y| multiply(&prepared, y))?;
        k.prepare_tri5(&mut prepared, fives);
        check("prepare_tri5", &|y| multiply(&prepared, y))
    }

    /// The same products by columns, some of them picked by each of two threads.
    fn columns(&self, what: &str, w: Ternary<'_>, (q, a): (&[i8], ActScale), expected: &[f32]) -> Result<()> {
        let k = self.kernels;
        let bytes = column_bytes(w.rows());
        let mut codes = vec![0; w.cols() * bytes];
        for (i, columns) in codes.chunks_exact_mut(BLOCK * bytes).enumerate() {
            k.pack_columns(columns, w, i * BLOCK);
        }
        let columns = Columns::new(&codes, w.rows(), w.cols());
        let picked: Vec<u32> = (0..w.cols() as u32).filter(|&c| q[c as usize] != 0).collect();
        let rows = w.rows().next_multiple_of(LINE_ROWS);
        let mut sums = vec![0; 2 * rows];
        for (sums, picked) in sums.chunks_exact_mut(rows).zip(picked.chunks(picked.len().div_ceil(2))) {
            k.sum_columns(sums, columns, picked, q);
        }
        let mut y = vec![0.0; w.rows()];
        k.join_sums(&mut y, &sums, a, SCALE);
        self.same("sum_columns", what, &y, expected)
    }

    /// The same products by the other kernels of one vector: rows picked, and five weights to a byte.
    fn other_ternary(
        &self,
        what: &str,
        w: Ternary<'_>,
        (q, a): (&[i8], ActScale),
        expected: &[f32],
    ) -> Result<()> {
        let k = self.kernels;
        let row_bytes = tri5::row_bytes(w.cols());
        let mut fives = vec![0; w.rows() * row_bytes];
        for (r, row) in fives.chunks_exact_mut(row_bytes).enumerate() {
            k.pack_tri5(row, w.row(r));
            let mut back = vec![0; w.row_bytes()];
            k.unpack_tri5(&mut back, row);
            if back != w.row(r) {
                return Err(self.differs("unpack_tri5", what));
            }
        }
        let fives = Tri5::new(&fives, w.rows(), w.cols());
        let mut y = vec![0.0; w.rows()];
        k.gemv_tri5(&mut y, fives, q, a, SCALE);
        self.same("gemv_tri5", what, &y, expected)?;

        let picked: Vec<u32> = (0..w.rows() as u32).step_by(2).collect();
        let of_picked = |y: &[f32]| y.iter().copied().step_by(2).collect::<Vec<f32>>();
        let expected = of_picked(expected);
        y.fill(0.0);
        k.gemv_i2s_picked(&mut y, w, &picked, (q, a), SCALE);
        self.same("gemv_i2s_picked", what, &of_picked(&y), &expected)?;
        y.fill(0.0);
        k.gemv_tri5_picked(&mut y, fives, &picked, (q, a), SCALE);
        self.same("gemv_tri5_picked", what, &of_picked(&y), &expected)
    }

    fn dense(&self, rows: usize, cols: usize) -> Result<()> {
        let mut random = SplitMix64(cols as u64);
        let (w, x) = (floats(&mut random, rows * cols), floats(&mut random, cols));
        let halves: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
        let rounded: Vec<f32> = x.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        self.both("gemv_f32", rows, |k, y| k.gemv_f32(y, &w, &x))?;
        self.both("gemv_f16", rows, |k, y| k.gemv_f16(y, &halves, &rounded))
    }

    fn elementwise(&self, n: usize) -> Result<()> {
        let mut random = SplitMix64(n as u64);
        let (x, z) = (floats(&mut random, n), floats(&mut random, n));
        let half = n / 2;
        self.both("rms_norm", n, |k, y| k.rms_norm(y, &x, &z, 1e-5))?;
        let on_x = |name, f: &dyn Fn(&Kernels, &mut [f32])| {
            self.both(name, n, |k, y| {
                y.copy_from_slice(&x);
                f(k, y);
            })
        };
        on_x("relu2_mul", &|k, y| k.relu2_mul(y, &z))?;
        on_x("silu_mul", &|k, y| k.silu_mul(y, &z))?;
        on_x("add", &|k, y| k.add(y, &z))?;
        on_x("rotate", &|k, y| k.rotate(y, &z[..half], &x[..half], Pairing::Halves))?;
        on_x("rotate", &|k, y| k.rotate(y, &z[..half], &x[..half], Pairing::Adjacent))?;
        on_x("round_to_f16", &|k, y| k.round_to_f16(y))?;
        if n.is_multiple_of(32) { on_x("softmax", &|k, y| k.softmax(y)) } else { Ok(()) }
    }

    fn attention(&self, n_pos: usize) -> Result<()> {
        const HEAD_DIM: usize = 96;
        const N_QUERY: usize = 7; // groups of four, two and one
        let n_pad = n_pos.next_multiple_of(32);
        let mut random = SplitMix64(n_pos as u64);
        let halves = |values: Vec<f32>| values.into_iter().map(f16::from_f32).collect::<Vec<f16>>();
        let rounded =
            |values: Vec<f32>| -> Vec<f32> { halves(values).into_iter().map(f16::to_f32).collect() };
        let (keys, values) = (
            halves(floats(&mut random, n_pos * HEAD_DIM)),
            halves(floats(&mut random, n_pos.next_multiple_of(ROW) * HEAD_DIM)),
        );
        let values = Values::new(&values, n_pos, HEAD_DIM);
        let (q, p) =
            (rounded(floats(&mut random, N_QUERY * HEAD_DIM)), rounded(floats(&mut random, N_QUERY * n_pad)));
        self.both("attn_scores", N_QUERY * n_pad, |k, y| k.attn_scores(y, &q, &keys, HEAD_DIM, 0.1))?;
        self.both("attn_mix", N_QUERY * HEAD_DIM, |k, y| k.attn_mix(y, values, &p))
    }

    fn shadow(&self, cols: usize) -> Result<()> {
        let mut random = SplitMix64(cols as u64);
        let w = floats(&mut random, cols);
        let mut x = ShadowVector::default();
        x.load(&floats(&mut random, cols));
        let of = |k: &Kernels| {
            let (mut fours, mut twos) = (vec![0; cols / 2], vec![0; cols / 4]);
            let row = k.shadow_row(&mut fours, &mut twos, &w);
            let (mut four, mut two, mut upper) = ([0.0], [0.0], [0.0]);
            k.dot_u4(&mut four, &fours, &x);
            k.dot_u2(&mut two, &twos, &[0], &x.high);
            let near = [x.near_of_six(four[0], two[0])];
            let lower = k.bounds(&mut upper, &near, &[row], &x, Precision::Six);
            (fours, twos, row, four, two, [lower, upper[0]])
        };
        if of(self.kernels) == of(self.scalar) {
            return Ok(());
        }
        Err(self.differs("the screened head", &format!("a row of {cols}")))
    }

    /// Runs a kernel of both tables, on outputs of `n` values.
    fn both(&self, name: &str, n: usize, run: impl Fn(&Kernels, &mut [f32])) -> Result<()> {
        let (mut got, mut expected) = (vec![0.5; n], vec![0.25; n]);
        run(self.kernels, &mut got);
        run(self.scalar, &mut expected);
        self.same(name, &format!("{n} values"), &got, &expected)
    }

    fn same(&self, name: &str, what: &str, got: &[f32], expected: &[f32]) -> Result<()> {
        let differ = |(got, expected): (&f32, &f32)| got.to_bits() != expected.to_bits();
        match got.iter().zip(expected).position(differ) {
            None => Ok(()),
            Some(i) => {
                let (got, expected) = (got[i], expected[i]);
                Err(self.differs(name, &format!("{what}: value {i} is {got:e}, expected {expected:e}")))
            }
        }
    }

    fn differs(&self, name: &str, what: &str) -> Error {
        let isa = self.kernels.isa();
        Error::Invalid { what: format!("--isa {isa}"), reason: format!("self-test of {name} failed, {what}") }
    }
}

/// `n` values in -4..4.
fn floats(random: &mut SplitMix64, n: usize) -> Vec<f32> {
    (0..n).map(|_| random.below(1 << 24) as f32 / (1 << 21) as f32 - 4.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_of_this_machine_passes() {
        for isa in Isa::available() {
            self_test(isa).unwrap();
        }
    }

    #[test]
    fn an_absent_instruction_set_is_refused() {
        let absent = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Avx512 };
        assert!(self_test(absent).is_err());
    }

    #[test]
    fn a_value_that_differs_is_named() {
        let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
        let bench = Bench { kernels: scalar, scalar };
        assert!(bench.same("add", "3 values", &[1.0, f32::NAN], &[1.0, f32::NAN]).is_ok());
        let error = bench.same("add", "3 values", &[1.0, 0.0], &[1.0, -0.0]).unwrap_err().to_string();
        assert_eq!(error, "--isa scalar: self-test of add failed, 3 values: value 1 is 0e0, expected -0e0");
    }
}
