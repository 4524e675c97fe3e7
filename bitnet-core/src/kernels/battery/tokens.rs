//! Ternary products with many tokens.

use super::{assert_bits, others, scalar};
use crate::kernels::{Kernels, Tokens};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::i2s::{self, Ternary};
use crate::quant::testing::Rng;
use crate::quant::tri5::{self, Tri5};

#[test]
fn ternary_matrix_products_equal_their_vector_products() {
    /// Values between outputs, which no kernel may touch.
    const GAP: usize = 3;
    const UNTOUCHED: f32 = -7.5;

    let mut rng = Rng(2);
    for k in std::iter::once(scalar()).chain(others()) {
        let mut tokens = Tokens::default(); // both of whatever the products before left in them
        let mut panel = Lines::default();
        for n in (1..=14).chain([16, 25, 32, 37, 68]) {
            let widest = (n == 2).then_some((2, 1 << 19)); // more groups than 16 bits can count
            let shapes = [(1, 128), (15, 256), (16, 384), (17, 128), (33, 640), (64, 256), (95, 1408)];
            let tall = (n > 14).then_some([(128, 128), (141, 640), (333, 2176)]); // as sums are looked up for
            for (rows, cols) in shapes.into_iter().chain(widest).chain(tall.into_iter().flatten()) {
                let what = format!("{k:?} {n} x [{rows}, {cols}]");
                let packed = i2s::pack(&rng.codes(rows * cols));
                let w = Ternary::new(&packed, rows, cols);
                let (mut all_q, mut scales) = (Vec::new(), Vec::new());
                for t in 0..n {
                    let mut q = vec![0; cols];
                    if t % 3 == 1 {
                        q.fill_with(|| [127, 126, -127, -128, rng.below(256) as u8 as i8][rng.below(5)]);
                        scales.push(ActScale { s: 3.0, sum: q.iter().map(|&q| i32::from(q)).sum() });
                    } else {
                        scales.push(scalar().quantize(&mut q, &rng.floats(cols, 2.0)));
                    }
                    all_q.extend(q);
                }
                tokens.repack(k, &all_q, &scales);
                let mut fives = vec![0; rows * tri5::row_bytes(cols)];
                for (r, row) in fives.chunks_exact_mut(tri5::row_bytes(cols)).enumerate() {
                    k.pack_tri5(row, w.row(r));
                }
                let fives = Tri5::new(&fives, rows, cols);
                let (mut got, mut got_fives) =
                    (vec![UNTOUCHED; n * (rows + GAP)], vec![UNTOUCHED; n * (rows + GAP)]);
                fn outs(y: &mut [f32], rows: usize) -> Vec<&mut [f32]> {
                    y.chunks_exact_mut(rows + GAP).map(|strip| &mut strip[..rows]).collect()
                }
                k.gemm_i2s(&mut outs(&mut got, rows), w, &tokens.tiles(), 1.7, &mut panel);
                k.gemm_tri5(&mut outs(&mut got_fives, rows), fives, &tokens.tiles(), 1.7, &mut panel);
                for (t, q) in all_q.chunks_exact(cols).enumerate() {
                    let mut expected = vec![UNTOUCHED; rows + GAP];
                    scalar().gemv_i2s(&mut expected[..rows], w, q, scales[t], 1.7);
                    let strip = t * (rows + GAP)..(t + 1) * (rows + GAP);
                    assert_bits(&got[strip.clone()], &expected, format_args!("{what} token {t}"));
                    assert_bits(
                        &got_fives[strip],
                        &expected,
                        format_args!("{what} token {t}, five in a byte"),
                    );
                }
            }
        }
    }
}

#[test]
fn prepared_rows_give_the_same_products_whole_and_in_parts() {
    use crate::kernels::prepared::{Prepared, ROWS};

    let mut rng = Rng(12);
    let prepares = |k: &&Kernels| k.prepared_bytes(ROWS, 128, 64) > 0;
    for k in others().into_iter().filter(prepares) {
        assert_eq!((k.prepared_bytes(ROWS - 1, 128, 64), k.prepared_bytes(ROWS, 128, 1)), (0, 0), "{k:?}");
        let mut panel = Lines::default();
        for (n, (rows, cols)) in [16, 37, 64]
            .into_iter()
            .flat_map(|n| [(128, 128), (141, 640), (333, 1408)].map(|shape| (n, shape)))
        {
            let packed = i2s::pack(&rng.codes(rows * cols));
            let w = Ternary::new(&packed, rows, cols);
            let mut q = vec![0; n * cols];
            let scales: Vec<ActScale> =
                q.chunks_exact_mut(cols).map(|q| scalar().quantize(q, &rng.floats(cols, 2.0))).collect();
            let tokens = Tokens::pack(k, &q, &scales);
            let mut expected = vec![0.0; n * rows];
            for ((y, q), a) in expected.chunks_exact_mut(rows).zip(q.chunks_exact(cols)).zip(&scales) {
                scalar().gemv_i2s(y, w, q, *a, 0.37);
            }
            let mut fives = vec![0; rows * tri5::row_bytes(cols)];
            for (r, row) in fives.chunks_exact_mut(tri5::row_bytes(cols)).enumerate() {
                k.pack_tri5(row, w.row(r));
            }
            let mut prepared =
                [vec![1; k.prepared_bytes(rows, cols, n)], vec![2; k.prepared_bytes(rows, cols, n)]];
            k.prepare(&mut prepared[0], w);
            k.prepare_tri5(&mut prepared[1], Tri5::new(&fives, rows, cols));
            for prepared in &prepared {
                let prepared = Prepared::new(prepared, rows, cols);
                for first in (0..rows).step_by(ROWS) {
                    for part in [0..first + ROWS.min(rows - first), first..rows] {
                        let mut y = vec![f32::NAN; n * part.len()];
                        let mut outs: Vec<&mut [f32]> = y.chunks_exact_mut(part.len()).collect();
                        let w = prepared.slice(part.start, part.len());
                        k.gemm_prepared(&mut outs, w, &tokens.tiles(), 0.37, &mut panel);
                        for (t, (y, expected)) in outs.iter().zip(expected.chunks_exact(rows)).enumerate() {
                            let what = format_args!("{k:?} {n} x [{rows}, {cols}], rows {part:?}, token {t}");
                            assert_bits(y, &expected[part.clone()], what);
                        }
                    }
                }
            }
        }
    }
}

/// The same where sums are looked up: of many rows and tokens, whose sums leave i16 at different times or never.
#[test]
fn products_of_many_tokens_survive_the_largest_sums() {
    const ROWS: usize = 130;
    let check = |k: &Kernels, weight: i8, cols: usize, acts: &[i8]| {
        let packed = i2s::pack(&vec![weight; ROWS * cols]);
        let q: Vec<i8> = acts.iter().flat_map(|&act| vec![act; cols]).collect();
        let scale = |&act: &i8| ActScale { s: 1.0, sum: i32::from(act) * cols as i32 };
        let scales: Vec<ActScale> = acts.iter().map(scale).collect();
        let mut y = vec![f32::NAN; acts.len() * ROWS];
        let mut outs: Vec<&mut [f32]> = y.chunks_exact_mut(ROWS).collect();
        let (w, tokens) = (Ternary::new(&packed, ROWS, cols), Tokens::pack(k, &q, &scales));
        k.gemm_i2s(&mut outs, w, &tokens.tiles(), 1.0, &mut Lines::default());
        for (t, (y, &act)) in outs.iter().zip(acts).enumerate() {
            let expected = f32::from(weight) * f32::from(act) * cols as f32;
            let all = y.iter().all(|y| *y == expected);
            assert!(all, "{k:?} token {t} of {}, {cols} x {weight} * {act}: {:?}", acts.len(), &y[..8]);
        }
    };
    for k in std::iter::once(scalar()).chain(others()) {
        for (n, cols) in [16, 33].into_iter().flat_map(|n| [128, 256, 384, 4096].map(|cols| (n, cols))) {
            let acts: Vec<i8> = (0..n).map(|t| [127, -128, 1, -127, 0, 64][t % 6]).collect();
            for weight in [-1, 0, 1] {
                check(k, weight, cols, &acts);
            }
        }
        // Each token alone.
        for large in 0..32 {
            let acts: Vec<i8> = (0..32).map(|t| if t == large { -128 } else { 1 }).collect();
            check(k, -1, 512, &acts);
        }
    }
}

#[test]
fn products_with_no_tokens_are_none() {
    let packed = i2s::pack(&[1; 128]);
    for k in std::iter::once(scalar()).chain(others()) {
        let mut tokens = Tokens::default();
        tokens.resize(k, 0, 128);
        k.gemm_i2s(&mut [], Ternary::new(&packed, 1, 128), &tokens.tiles(), 1.0, &mut Lines::default());
        let fives = Tri5::new(&[0; tri5::CHUNK_BYTES], 1, 128);
        k.gemm_tri5(&mut [], fives, &tokens.tiles(), 1.0, &mut Lines::default());
    }
}

#[test]
fn tokens_for_other_kernels_are_refused() {
    let packed = i2s::pack(&[1; 128]);
    for k in others() {
        for (reader, writer) in [(k, scalar()), (scalar(), k)] {
            let tokens = Tokens::pack(writer, &[1; 256], &[ActScale { s: 1.0, sum: 128 }; 2]);
            let product = std::panic::catch_unwind(|| {
                let (mut y0, mut y1) = ([0.0], [0.0]);
                let w = Ternary::new(&packed, 1, 128);
                reader.gemm_i2s(&mut [&mut y0, &mut y1], w, &tokens.tiles(), 1.0, &mut Lines::default());
            });
            let product_of_fives = std::panic::catch_unwind(|| {
                let (mut y0, mut y1) = ([0.0], [0.0]);
                let w = Tri5::new(&[0; tri5::CHUNK_BYTES], 1, 128);
                reader.gemm_tri5(&mut [&mut y0, &mut y1], w, &tokens.tiles(), 1.0, &mut Lines::default());
            });
            let refused = product.is_err() && product_of_fives.is_err();
            assert!(refused, "{reader:?} reads what {writer:?} packed");
        }
    }
}

#[test]
fn outputs_of_another_length_are_refused() {
    let fives = Tri5::new(&[0; 32 * tri5::CHUNK_BYTES], 32, 128);
    for k in std::iter::once(scalar()).chain(others()) {
        let tokens = Tokens::pack(k, &[1; 256], &[ActScale { s: 1.0, sum: 128 }; 2]);
        let product = std::panic::catch_unwind(|| {
            let (mut y0, mut y1) = ([0.0; 40], [0.0; 40]);
            k.gemm_tri5(&mut [&mut y0, &mut y1], fives, &tokens.tiles(), 1.0, &mut Lines::default());
        });
        assert!(product.is_err(), "{k:?}");
    }
}

#[test]
fn pairs_are_made_alike() {
    let mut rng = Rng(12);
    for k in others() {
        for blocks in 1..9 {
            let mut row: Vec<i8> = (0..blocks * i2s::BLOCK).map(|_| rng.below(256) as u8 as i8).collect();
            let (mut expected, mut peaks, mut expected_peaks) = (row.clone(), Vec::new(), Vec::new());
            let share = k.pair_up(&mut row, 5, &mut peaks);
            assert_eq!(share, scalar().pair_up(&mut expected, 5, &mut expected_peaks), "{k:?}");
            assert_eq!((row, peaks), (expected, expected_peaks), "{k:?} {blocks} blocks");
        }
    }
}
