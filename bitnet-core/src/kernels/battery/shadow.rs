//! The shadow of the head, its products and its bounds.

use super::{others, scalar};
use crate::kernels::Kernels;
use crate::ops::screen::{Precision, ShadowVector};
use crate::quant::testing::Rng;

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
