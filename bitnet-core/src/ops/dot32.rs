//! The order in which every float dot product is summed, and the product of dense f32 rows.

/// `y = w · x`: 32 f32 accumulators, lane = index mod 32, `acc = fma(w, x, acc)`, joined as
/// [`reduce_lanes`] says; what is left past the last whole 32 is added in f64, product rounded to f32, and
/// rounded once at the end.
///
/// - `y`: `[rows]`, overwritten; `w`: `[rows, cols]`; `x`: `[cols]`, not empty
///
/// This is bitnet.cpp's arithmetic for F32 tensors. Formats that are stored in blocks are expanded to f32 first and
/// multiplied in the same way; bitnet.cpp would round the activations for them, which costs accuracy.
#[inline(always)]
pub fn gemv(y: &mut [f32], w: &[f32], x: &[f32]) {
    let (x_blocks, x_rest) = x.as_chunks::<32>();
    for (y, row) in y.iter_mut().zip(w.chunks_exact(x.len())) {
        let (w_blocks, w_rest) = row.as_chunks::<32>();
        let mut acc = [0.0_f32; 32];
        for (w, x) in w_blocks.iter().zip(x_blocks) {
            for lane in 0..32 {
                acc[lane] = w[lane].mul_add(x[lane], acc[lane]);
            }
        }
        let mut sum = f64::from(reduce_lanes(&acc));
        for (w, x) in w_rest.iter().zip(x_rest) {
            sum += f64::from(w * x);
        }
        *y = sum as f32;
    }
}

/// Adds 32 lanes, as four vectors `v0..v3` of 8: `u = (v0 + v2) + (v1 + v3)`, `t_j = u_j + u_{j+4}` (j < 4), then
/// `(t0 + t1) + (t2 + t3)`.
#[inline(always)]
#[must_use]
pub fn reduce_lanes(acc: &[f32; 32]) -> f32 {
    let mut u = [0.0; 8];
    for j in 0..8 {
        u[j] = (acc[j] + acc[j + 16]) + (acc[j + 8] + acc[j + 24]);
    }
    let t = [u[0] + u[4], u[1] + u[5], u[2] + u[6], u[3] + u[7]];
    (t[0] + t[1]) + (t[2] + t[3])
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_integers_are_exact_in_any_order() {
        for n in [1, 31, 32, 33, 100] {
            let w: Vec<f32> = (0..2 * n).map(|i| (i % 7) as f32 - 3.0).collect();
            let x: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
            let mut y = [0.0; 2];
            super::gemv(&mut y, &w, &x);
            for r in 0..2 {
                assert_eq!(y[r], w[r * n..][..n].iter().zip(&x).map(|(w, x)| w * x).sum::<f32>());
            }
        }
    }
}
