//! Products of floats, attention, and the loops between products.

use half::f16;

use super::{assert_bits, others, scalar};
use crate::kernels::values::ROW;
use crate::kernels::{Kernels, Values};
use crate::ops::rope::Pairing;
use crate::quant::testing::Rng;

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
            let pick = |rng: &mut Rng| extremes[rng.below(extremes.len())];
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
fn any_lines_may_be_asked_for() {
    for k in Kernels::all() {
        for n in [0, 1, 31, 32, 33, 300] {
            for step in [1, 32, 128, usize::MAX] {
                k.ask(&vec![0; n], step);
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
