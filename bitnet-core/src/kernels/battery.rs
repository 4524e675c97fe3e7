//! One set of tests, run on every instruction set this machine has, each function called directly against the
//! scalar definition: equal bits, for every remainder of every length and for adversarial values.
//!
//! `BITNET_REQUIRE_ISA=avx2,avx512` (set by CI) turns a table of that name that is absent into a failure.

use half::f16;

use super::values::ROW;
use super::*;
use crate::ops::rope::Pairing;
use crate::ops::screen::{Precision, ShadowVector};
use crate::pages::Lines;
use crate::quant::act::ActScale;
use crate::quant::columns::{Columns, LINE_ROWS, column_bytes};
use crate::quant::i2s::{self, BLOCK, Ternary};
use crate::quant::tri5::{self, Tri5};

/// SplitMix64: seeded, so that a failure repeats.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    fn floats(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| self.unit() * size).collect()
    }

    fn halves(&mut self, n: usize) -> Vec<f16> {
        (0..n).map(|_| f16::from_f32(self.unit() * 3.0)).collect()
    }

    /// Values an f16 can hold.
    fn rounded(&mut self, n: usize) -> Vec<f32> {
        self.halves(n).into_iter().map(f16::to_f32).collect()
    }

    fn ternary(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.below(3) as i8 - 1).collect()
    }
}

/// Every table but the scalar one.
fn others() -> Vec<&'static Kernels> {
    Kernels::all().into_iter().filter(|k| k.isa() != Isa::Scalar).collect()
}

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

#[track_caller]
fn assert_bits(got: &[f32], expected: &[f32], what: std::fmt::Arguments<'_>) {
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan()),
            "{what}: value {i} is {g} ({:#010x}), scalar has {e} ({:#010x})",
            g.to_bits(),
            e.to_bits()
        );
    }
    assert_eq!(got.len(), expected.len(), "{what}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own switch, never read by the engine")]
fn the_instruction_sets_that_ci_names_are_here() {
    let Ok(names) = std::env::var("BITNET_REQUIRE_ISA") else { return };
    for name in names.split(',') {
        let here: Vec<&str> = Kernels::all().into_iter().map(Kernels::name).collect();
        assert!(here.contains(&name), "{name} is required, this machine has {here:?}");
    }
}

#[test]
fn ternary_vector_products_agree() {
    let mut rng = Rng(1);
    for k in others() {
        for blocks in (1..=17).chain([20, 31, 54]) {
            for rows in [1, 2, 3, 4, 5, 7, 9] {
                let cols = blocks * i2s::BLOCK;
                let packed = i2s::pack(&rng.ternary(rows * cols));
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
            let packed = i2s::pack(&rng.ternary(rows * cols));
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
            let packed = i2s::pack(&rng.ternary(rows * cols));
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
fn five_weights_in_a_byte_give_the_products_of_four() {
    let mut rng = Rng(11);
    for k in std::iter::once(scalar()).chain(others()) {
        for blocks in (1..=12).chain([15, 20, 31, 54, 512]) {
            for rows in [1, 2, 5] {
                let cols = blocks * i2s::BLOCK;
                let what = format!("{k:?} [{rows}, {cols}]");
                let packed = i2s::pack(&rng.ternary(rows * cols));
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
                let packed = i2s::pack(&rng.ternary(rows * cols));
                let w = Ternary::new(&packed, rows, cols);
                let (mut all_q, mut scales) = (Vec::new(), Vec::new());
                for t in 0..n {
                    let mut q = vec![0; cols];
                    if t % 3 == 1 {
                        q.fill_with(|| {
                            [127, 126, -127, -128, rng.below(256) as u8 as i8][rng.below(5) as usize]
                        });
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
    use super::prepared::{Prepared, ROWS};

    let mut rng = Rng(12);
    let prepares = |k: &&Kernels| k.prepared_bytes(ROWS, 128, 64) > 0;
    for k in others().into_iter().filter(prepares) {
        assert_eq!((k.prepared_bytes(ROWS - 1, 128, 64), k.prepared_bytes(ROWS, 128, 1)), (0, 0), "{k:?}");
        let mut panel = Lines::default();
        for (n, (rows, cols)) in [16, 37, 64]
            .into_iter()
            .flat_map(|n| [(128, 128), (141, 640), (333, 1408)].map(|shape| (n, shape)))
        {
            let packed = i2s::pack(&rng.ternary(rows * cols));
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

#[test]
fn f16_products_agree_at_every_length() {
    let mut rng = Rng(3);
    for k in others() {
        for cols in (1..=130).chain([384, 2560]) {
            for rows in [1, 2, 3, 4, 5, 9] {
                let (w, x) = (rng.halves(rows * cols), rng.rounded(cols));
                let (mut got, mut expected) = (vec![0.0; rows], vec![0.0; rows]);
                k.gemv_f16(&mut got, &w, &x);
                scalar().gemv_f16(&mut expected, &w, &x);
                assert_bits(&got, &expected, format_args!("{k:?} f16 [{rows}, {cols}]"));
            }
        }
    }
}

#[test]
fn f16_products_agree_on_extreme_values() {
    let extremes = [
        f16::MAX,
        f16::MIN,
        f16::MIN_POSITIVE,
        f16::from_bits(1),
        f16::from_bits(0x8001),
        f16::ZERO,
        f16::NEG_ZERO,
        f16::ONE,
        f16::from_bits(0x03ff),
    ];
    let mut rng = Rng(4);
    for k in others() {
        for _ in 0..200 {
            let pick = |rng: &mut Rng| extremes[rng.below(extremes.len() as u64) as usize];
            let w: Vec<f16> = (0..4 * 96).map(|_| pick(&mut rng)).collect();
            let x: Vec<f32> = (0..96).map(|_| pick(&mut rng).to_f32()).collect();
            let (mut got, mut expected) = ([0.0; 4], [0.0; 4]);
            k.gemv_f16(&mut got, &w, &x);
            scalar().gemv_f16(&mut expected, &w, &x);
            assert_bits(&got, &expected, format_args!("{k:?} extremes"));
        }
    }
}

#[test]
fn f32_products_agree_at_every_length() {
    let mut rng = Rng(5);
    for k in others() {
        for cols in (1..=70).chain([256, 2560]) {
            let (w, x) = (rng.floats(3 * cols, 2.0), rng.floats(cols, 2.0));
            let (mut got, mut expected) = ([0.0; 3], [0.0; 3]);
            k.gemv_f32(&mut got, &w, &x);
            scalar().gemv_f32(&mut expected, &w, &x);
            assert_bits(&got, &expected, format_args!("{k:?} f32 [3, {cols}]"));
        }
    }
}

#[test]
fn attention_agrees_at_every_number_of_positions_and_queries() {
    let mut rng = Rng(6);
    for k in others() {
        for head_dim in [5, 8, 33, 64, 96, 100, 128] {
            for n_pos in (1..=36).chain([64, 97, ROW, ROW + 1, 2 * ROW + 40]) {
                for n_query in [1, 2, 3, 4, 5, 7, 8] {
                    let n_pad = usize::next_multiple_of(n_pos, 32);
                    let (keys, q) = (rng.halves(n_pos * head_dim), rng.rounded(n_query * head_dim));
                    let (mut got, mut expected) = (vec![0.5; n_query * n_pad], vec![0.25; n_query * n_pad]);
                    k.attn_scores(&mut got, &q, &keys, head_dim, 0.0884);
                    scalar().attn_scores(&mut expected, &q, &keys, head_dim, 0.0884);
                    let what = format!("{k:?} head_dim {head_dim}, {n_pos} positions, {n_query} queries");
                    assert_bits(&got, &expected, format_args!("{what}: scores"));

                    let (mut v, mut p) =
                        (rng.halves(n_pos.next_multiple_of(ROW) * head_dim), rng.rounded(n_query * n_pad));
                    // Past the last position there may be anything; its probability is zero.
                    for (i, v) in v.iter_mut().enumerate() {
                        let pos = i / (ROW * head_dim) * ROW + i % ROW;
                        *v = if pos < n_pos { *v } else { f16::INFINITY };
                    }
                    p.chunks_exact_mut(n_pad).for_each(|p| p[n_pos..].fill(0.0));
                    let v = Values::new(&v, n_pos, head_dim);
                    let (mut got, mut expected) = (vec![0.5; q.len()], vec![0.25; q.len()]);
                    k.attn_mix(&mut got, v, &p);
                    scalar().attn_mix(&mut expected, v, &p);
                    assert_bits(&got, &expected, format_args!("{what}: values"));
                    assert!(expected.iter().all(|v| v.is_finite()), "{what}: what is past the end counts");
                }
            }
        }
    }
}

#[test]
fn plain_loops_agree_at_every_length() {
    let mut rng = Rng(7);
    for k in others() {
        for n in (1..=100).chain([256, 2560]) {
            let (x, z) = (rng.floats(n, 3.0), rng.floats(n, 1.5));
            let what = |name| format!("{k:?} {name} of {n}");
            let run = |f: &dyn Fn(&Kernels, &mut [f32])| {
                let (mut got, mut expected) = (x.clone(), x.clone());
                f(k, &mut got);
                f(scalar(), &mut expected);
                (got, expected)
            };
            let check = |name, f: &dyn Fn(&Kernels, &mut [f32])| {
                let (got, expected) = run(f);
                assert_bits(&got, &expected, format_args!("{}", what(name)));
            };
            check("rms_norm", &|k, y| k.rms_norm(y, &x, &z, 1e-5));
            check("relu2_mul", &|k, y| k.relu2_mul(y, &z));
            check("silu_mul", &|k, y| k.silu_mul(y, &z));
            check("add", &|k, y| k.add(y, &z));
            check("rotate halves", &|k, y| {
                let h = y.len() / 2;
                k.rotate(y, &z[..h], &x[..h], Pairing::Halves);
            });
            check("rotate adjacent", &|k, y| {
                let h = y.len() / 2;
                k.rotate(y, &z[..h], &x[..h], Pairing::Adjacent);
            });
            check("round_to_f16", &|k, y| k.round_to_f16(y));
            if n % 32 == 0 {
                check("softmax", &|k, y| k.softmax(y));
            }
            let (mut got, mut expected) = (vec![0; n], vec![1; n]);
            assert_eq!(k.quantize(&mut got, &x), scalar().quantize(&mut expected, &x), "{}", what("scale"));
            assert_eq!(got, expected, "{}", what("quantize"));
        }
    }
}

#[test]
fn quantization_agrees_on_ties_and_on_what_is_not_a_number() {
    for k in others() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, f32::MAX] {
            for n in [1, 33, 64, 100] {
                // 127 and halves: s = 1, every other product is a tie.
                let mut x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 12.5).collect();
                x[0] = 127.0;
                x[n / 2] = special;
                let (mut got, mut expected) = (vec![0; n], vec![1; n]);
                assert_eq!(k.quantize(&mut got, &x), scalar().quantize(&mut expected, &x), "{special}");
                assert_eq!(got, expected, "{k:?} with {special}");
            }
        }
    }
}

#[test]
fn plain_loops_agree_across_the_whole_range() {
    let mut rng = Rng(8);
    for k in others() {
        for size in [1e-6, 1e-3, 1.0, 30.0, 100.0, 1000.0, 1e5, 1e30] {
            let x = rng.floats(4096, size);
            let (mut got, mut expected) = (x.clone(), x.clone());
            k.silu_mul(&mut got, &vec![1.0; 4096]);
            scalar().silu_mul(&mut expected, &vec![1.0; 4096]);
            assert_bits(&got, &expected, format_args!("{k:?} silu to {size}"));
            let (mut got, mut expected) = (x.clone(), x.clone());
            k.round_to_f16(&mut got);
            scalar().round_to_f16(&mut expected);
            assert_bits(&got, &expected, format_args!("{k:?} rounding to {size}"));
            let (mut got, mut expected) = (x.clone(), x);
            k.softmax(&mut got);
            scalar().softmax(&mut expected);
            assert_bits(&got, &expected, format_args!("{k:?} softmax to {size}"));
        }
    }
}

#[test]
fn shadows_and_their_products_and_bounds_agree() {
    let mut rng = Rng(9);
    for k in others() {
        for cols in (1..=12).map(|n| n * 128).chain([2560, 4096, 4224, 6912]) {
            for rows in [1, 2, 3, 7] {
                let what = format!("{k:?} [{rows}, {cols}]");
                let (mut fours, mut twos) = (vec![0; rows * cols / 2], vec![0; rows * cols / 4]);
                let (mut expected_fours, mut expected_twos) = (vec![1; fours.len()], vec![1; twos.len()]);
                let mut shadows = Vec::new();
                for r in 0..rows {
                    let w: Vec<f32> = rng.rounded(cols);
                    let planes = |fours, twos, k: &Kernels| {
                        let fours: &mut Vec<u8> = fours;
                        let twos: &mut Vec<u8> = twos;
                        let two = &mut twos[r * cols / 4..][..cols / 4];
                        k.shadow_row(&mut fours[r * cols / 2..][..cols / 2], two, &w)
                    };
                    shadows.push(planes(&mut fours, &mut twos, k));
                    let expected = planes(&mut expected_fours, &mut expected_twos, scalar());
                    assert_eq!(shadows.last(), Some(&expected), "{what}");
                }
                assert!(fours == expected_fours && twos == expected_twos, "{what}: planes");

                let mut x = ShadowVector::default();
                x.load(&rng.rounded(cols));
                let (mut got, mut expected) = (vec![0.0; rows], vec![1.0; rows]);
                k.dot_u4(&mut got, &fours, &x);
                scalar().dot_u4(&mut expected, &fours, &x);
                assert_eq!(got, expected, "{what}: four bits");
                let picked: Vec<u32> = (0..rows as u32).rev().chain([0]).collect();
                let (mut got_two, mut expected_two) = (vec![0.0; rows + 1], vec![1.0; rows + 1]);
                k.dot_u2(&mut got_two, &twos, &picked, &x.high);
                scalar().dot_u2(&mut expected_two, &twos, &picked, &x.high);
                assert_eq!(got_two, expected_two, "{what}: two bits");

                for precision in [Precision::Four, Precision::Six] {
                    let (mut upper, mut expected_upper) = (vec![0.0; rows], vec![1.0; rows]);
                    let lower = k.bounds(&mut upper, &got, &shadows, &x, precision);
                    let expected_lower = scalar().bounds(&mut expected_upper, &got, &shadows, &x, precision);
                    assert_eq!((lower, upper), (expected_lower, expected_upper), "{what}: bounds");
                }
            }
        }
    }
}

#[test]
fn products_with_a_shadow_survive_the_largest_sums() {
    for k in std::iter::once(scalar()).chain(others()) {
        for cols in [128, 256, 1280, 1408, 1 << 16] {
            for (value, most) in [(1.0, 127.0 * 256.0), (-1.0, -127.0 * 256.0)] {
                let mut x = ShadowVector::default();
                x.load(&vec![value; cols]);
                let mut y = [0.0];
                k.dot_u4(&mut y, &vec![0xff; cols / 2], &x);
                assert_eq!(y, [15.0 * most * cols as f64], "{k:?} of {cols}: four bits");
                for most in [127, -128] {
                    k.dot_u2(&mut y, &vec![0xff; cols / 4], &[0], &vec![most; cols]);
                    assert_eq!(y, [3.0 * f64::from(most) * cols as f64], "{k:?} of {cols}: two bits");
                }
            }
            // Both halves of every value at their lowest, -128.
            let mut x = ShadowVector::default();
            x.load(&vec![1.0; cols]);
            x.values.fill(i16::MIN);
            x.high.fill(-128);
            x.low.fill(0);
            let mut y = [0.0];
            k.dot_u4(&mut y, &vec![0xff; cols / 2], &x);
            assert_eq!(y, [15.0 * -32_768.0 * cols as f64], "{k:?} of {cols}: the lowest high halves");
            x.values.fill(-128);
            x.high.fill(0);
            x.low.fill(-128);
            k.dot_u4(&mut y, &vec![0xff; cols / 2], &x);
            assert_eq!(y, [15.0 * -128.0 * cols as f64], "{k:?} of {cols}: the lowest low halves");
        }
    }
}
