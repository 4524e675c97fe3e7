//! Ternary products with one vector.

use super::{assert_bits, others, scalar};
use crate::kernels::Tokens;
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{Columns, LINE_ROWS, column_bytes};
use crate::quant::i2s::{self, BLOCK, Ternary};
use crate::quant::testing::Rng;
use crate::quant::tri5::{self, Tri5};

#[test]
fn ternary_vector_products_agree() {
    let mut rng = Rng(1);
    for k in others() {
        for blocks in (1..=17).chain([20, 31, 54]) {
            for rows in [1, 2, 3, 4, 5, 7, 9] {
                let cols = blocks * i2s::BLOCK;
                let packed = i2s::pack(&rng.codes(rows * cols));
                let w = Ternary::new(&packed, rows, cols);
                let mut q = vec![0; cols];
                let a = scalar().quantize(&mut q, &rng.floats(cols, 5.0));
                let (mut got, mut expected) = (vec![0.0; rows], vec![0.0; rows]);
                k.gemv_i2s(&mut got, w, &q, a, 0.37);
                scalar().gemv_i2s(&mut expected, w, &q, a, 0.37);
                assert_bits(&got, &expected, format_args!("{k:?} [{rows}, {cols}]"));
            }
        }
    }
}

#[test]
fn picked_rows_equal_those_of_the_whole_product_and_others_stay() {
    let mut rng = Rng(10);
    for k in std::iter::once(scalar()).chain(others()) {
        for (rows, cols) in [(1, 128), (40, 640), (97, 2560), (33, 384)] {
            let packed = i2s::pack(&rng.codes(rows * cols));
            let w = Ternary::new(&packed, rows, cols);
            let mut q = vec![0; cols];
            let a = scalar().quantize(&mut q, &rng.floats(cols, 5.0));
            let mut whole = vec![0.0; rows];
            scalar().gemv_i2s(&mut whole, w, &q, a, 0.37);
            for one_in in [1, 2, 7, 1000] {
                let picked: Vec<u32> = (0..rows as u32).filter(|_| rng.below(one_in) == 0).collect();
                let mut y = vec![-7.5; rows];
                k.gemv_i2s_picked(&mut y, w, &picked, (&q, a), 0.37);
                for r in 0..rows {
                    let expected = if picked.contains(&(r as u32)) { whole[r] } else { -7.5 };
                    assert_eq!(y[r].to_bits(), expected.to_bits(), "{k:?} row {r} of [{rows}, {cols}]");
                }
            }
        }
    }
}

#[test]
fn columns_picked_give_the_products_of_rows() {
    let mut rng = Rng(12);
    for k in std::iter::once(scalar()).chain(others()) {
        for (rows, cols) in [(1, 128), (255, 256), (256, 640), (257, 128), (2560, 256), (700, 1408)] {
            let what = format!("{k:?} [{rows}, {cols}]");
            let packed = i2s::pack(&rng.codes(rows * cols));
            let w = Ternary::new(&packed, rows, cols);
            let bytes = column_bytes(rows);
            let (mut codes, mut expected) = (vec![0xff; cols * bytes], vec![0; cols * bytes]);
            for first in (0..cols).step_by(BLOCK) {
                k.pack_columns(&mut codes[first * bytes..][..BLOCK * bytes], w, first);
                scalar().pack_columns(&mut expected[first * bytes..][..BLOCK * bytes], w, first);
            }
            assert_eq!(codes, expected, "{what}");
            let columns = Columns::new(&codes, rows, cols);
            for one_in in [1, 2, 7, 1000] {
                let mut q: Vec<i8> = (0..cols).map(|_| (rng.below(256) as u8).cast_signed()).collect();
                q.iter_mut().for_each(|q| *q *= i8::from(rng.below(one_in) == 0));
                let a = ActScale { s: 3.7, sum: q.iter().map(|&q| i32::from(q)).sum() };
                let mut whole = vec![0.0; rows];
                scalar().gemv_i2s(&mut whole, w, &q, a, 0.37);
                let picked: Vec<u32> = (0..cols as u32).filter(|&c| q[c as usize] != 0).collect();
                // Three threads, one of them with nothing to do.
                let mut sums = vec![0; 3 * rows.next_multiple_of(LINE_ROWS)];
                let parts = picked.split_at(picked.len() / 3);
                for (sums, part) in
                    sums.chunks_exact_mut(rows.next_multiple_of(LINE_ROWS)).zip([parts.0, &[], parts.1])
                {
                    k.sum_columns(sums, columns, part, &q);
                }
                let mut y = vec![f32::NAN; rows];
                k.join_sums(&mut y, &sums, a, 0.37);
                assert_bits(&y, &whole, format_args!("{what}, one in {one_in}"));
            }
        }
    }
}

#[test]
fn sums_of_columns_survive_the_largest_activations() {
    let (rows, cols) = (256, 16384);
    for k in std::iter::once(scalar()).chain(others()) {
        for (weight, act) in [(1, 127), (1, -128), (-1, -128), (0, -128)] {
            let packed = i2s::pack(&vec![weight; rows * cols]);
            let mut codes = vec![0; cols * column_bytes(rows)];
            for (i, columns) in codes.chunks_exact_mut(BLOCK * column_bytes(rows)).enumerate() {
                k.pack_columns(columns, Ternary::new(&packed, rows, cols), i * BLOCK);
            }
            let mut sums = vec![0; rows];
            let picked: Vec<u32> = (0..cols as u32).collect();
            k.sum_columns(&mut sums, Columns::new(&codes, rows, cols), &picked, &vec![act; cols]);
            let expected = (i32::from(weight) + 1) * i32::from(act) * cols as i32;
            assert!(sums.iter().all(|&sum| sum == expected), "{k:?} {weight} * {act}");
        }
    }
}

/// The sums that overflow i16 lanes when they are moved to i32 too late, and in vectors as wide as a model may have,
/// sums of pairs that wrap around in i32.
#[test]
fn ternary_products_survive_the_largest_sums() {
    const WIDEST: usize = 1 << 22;
    for k in std::iter::once(scalar()).chain(others()) {
        for blocks in [1, 2, 15, 16, 17, 32, 64, 181, 512, WIDEST / i2s::BLOCK] {
            let cols = blocks * i2s::BLOCK;
            for (weight, act) in [(1, 127), (1, -127), (-1, 127), (-1, -127), (1, -128), (-1, -128), (0, 127)]
            {
                let packed = i2s::pack(&vec![weight; 3 * cols]);
                let w = Ternary::new(&packed, 3, cols);
                let q = vec![act; cols];
                let a = ActScale { s: 1.0, sum: i32::from(act) * cols as i32 };
                let expected = f32::from(weight) * f32::from(act) * cols as f32;
                let mut y = [0.0; 3];
                k.gemv_i2s(&mut y, w, &q, a, 1.0);
                assert_eq!(y, [expected; 3], "{k:?} {cols} x {weight} * {act}");

                let mut fives = vec![0; 3 * tri5::row_bytes(cols)];
                for (r, row) in fives.chunks_exact_mut(tri5::row_bytes(cols)).enumerate() {
                    k.pack_tri5(row, w.row(r));
                }
                k.gemv_tri5(&mut y, Tri5::new(&fives, 3, cols), &q, a, 1.0);
                assert_eq!(y, [expected; 3], "{k:?} {cols} x {weight} * {act}, five in a byte");

                let mut y = [[0.0; 3]; 2];
                let [y0, y1] = &mut y;
                let scales = [a; 2];
                let tokens = Tokens::pack(k, &vec![act; 2 * cols], &scales);
                k.gemm_i2s(&mut [y0, y1], w, &tokens.tiles(), 1.0, &mut Lines::default());
                assert_eq!(y, [[expected; 3]; 2], "{k:?} gemm {cols} x {weight} * {act}");
            }
        }
    }
}

#[test]
fn five_weights_in_a_byte_give_the_products_of_four() {
    let mut rng = Rng(11);
    for k in std::iter::once(scalar()).chain(others()) {
        for blocks in (1..=12).chain([15, 20, 31, 54, 512]) {
            for rows in [1, 2, 5] {
                let cols = blocks * i2s::BLOCK;
                let what = format!("{k:?} [{rows}, {cols}]");
                let packed = i2s::pack(&rng.codes(rows * cols));
                let w = Ternary::new(&packed, rows, cols);
                let mut fives = vec![0xff; rows * tri5::row_bytes(cols)];
                for (r, row) in fives.chunks_exact_mut(tri5::row_bytes(cols)).enumerate() {
                    k.pack_tri5(row, w.row(r));
                    let mut back = vec![0xff; w.row_bytes()];
                    k.unpack_tri5(&mut back, row);
                    assert_eq!(back, w.row(r), "{what}: row {r} comes back");
                }
                let fives = Tri5::new(&fives, rows, cols);
                let mut q = vec![0; cols];
                let a = scalar().quantize(&mut q, &rng.floats(cols, 5.0));
                let (mut got, mut expected) = (vec![0.0; rows], vec![0.0; rows]);
                k.gemv_tri5(&mut got, fives, &q, a, 0.37);
                scalar().gemv_i2s(&mut expected, w, &q, a, 0.37);
                assert_bits(&got, &expected, format_args!("{what}"));

                let picked: Vec<u32> = (0..rows as u32).step_by(2).collect();
                let mut y = vec![-7.5; rows];
                k.gemv_tri5_picked(&mut y, fives, &picked, (&q, a), 0.37);
                for (r, (y, whole)) in y.iter().zip(&expected).enumerate() {
                    assert_eq!(*y, if r % 2 == 0 { *whole } else { -7.5 }, "{what}: picked row {r}");
                }
            }
        }
    }
}
