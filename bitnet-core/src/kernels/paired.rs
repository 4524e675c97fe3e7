//! Two products for one multiplication: how a matrix kernel multiplies faster than its multiply instruction.
//!
//! For weights `w` and activations `x`, both of whole numbers (S. Winograd, "A New Algorithm for Inner Product", 1968):
//!
//! ```text
//! w1 x1 + w2 x2 = (x1 + w2) (x2 + w1) - x1 x2 - w1 w2
//! ```
//!
//! What is subtracted depends on the token alone and on the row alone: of a product of matrices it is computed once for
//! each. So half of the multiplications become additions, of which a CPU has more, and ternary weights keep both
//! factors to nearly a byte. All of it is exact: sums may wrap around in i32, and the result, of up to 2^23 columns, fits.
//!
//! **Roles.** Four values are a group, as one lane of a multiply instruction takes them; 32 groups are a block of
//! [`BLOCK`] values. With two additions for each pair, the multiplier would idle a third of the time, so ten groups in 32
//! are multiplied plainly: groups 0 and 1 of a block are a pair, 2 is plain, 3 and 4 are a pair, 5 is plain, and so on;
//! 30 and 31 are the eleventh pair.
//!
//! **Bytes.** With codes `c = w + 1` in 0..=2, the kernel multiplies
//!
//! ```text
//! (first + c2) as u8  *  (second + c1) as i8     where first = x1 + 127, second = x2 - 1
//!           c  as u8  *          x     as i8     in plain groups
//! ```
//!
//! that is `(x1 + w2 + 128) (x2 + w1)`. The factors fill their bytes when `x` of pairs is in -127..=126. **Peaks.** A value
//! outside, 127 (which half of all vectors have once) or -128 (which stands for NaN), is kept one nearer to zero, and the
//! unit it lacks is noted in a list and multiplied plainly. A code of 3 would be outside as well, and is no weight.
//!
//! The sum of it all over a row exceeds `w · x` by
//!
//! - the token's share, which [`pair_up`] returns: `x1 x2 + 128 x2` of pairs, `x` of plain groups, units of peaks;
//! - the row's share, the kernel's business: `w1 w2 + 128 w1` of pairs.

use crate::quant::i2s::BLOCK;

/// Values that are multiplied in one lane.
pub const GROUP: usize = 4;
/// Groups of a block.
pub const GROUPS: usize = BLOCK / GROUP;
/// Groups from the first of a pair to the first of the next.
pub const STEP: usize = 3;

/// What a group of one token has beyond the range of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peak {
    /// Token of the tile.
    pub token: u32,
    /// Group of the vector.
    pub group: u32,
    /// `x` less what stands in its place: -1, 0 or 1.
    pub units: [i8; GROUP],
}

/// What a value's place in a block means for it.
struct Roles {
    low: [i8; BLOCK],
    high: [i8; BLOCK],
    /// Added to the value, wrapping around.
    bias: [i8; BLOCK],
    /// 1 in the second group of a pair.
    second: [i16; BLOCK],
    /// 1 in plain groups.
    plain: [i16; BLOCK],
}

const ROLES: Roles = {
    let mut roles = Roles {
        low: [-128; BLOCK],
        high: [127; BLOCK],
        bias: [0; BLOCK],
        second: [0; BLOCK],
        plain: [0; BLOCK],
    };
    let mut i = 0;
    while i < BLOCK {
        match (i / GROUP) % STEP {
            2 => roles.plain[i] = 1,
            nth => {
                (roles.low[i], roles.high[i]) = (-127, 126);
                roles.bias[i] = if nth == 0 { 127 } else { -1 };
                roles.second[i] = nth as i16;
            }
        }
        i += 1;
    }
    roles
};

/// Turns the values of a token into what a kernel reads that multiplies pairs, and returns the token's share of what its
/// sums are too large by.
///
/// - `row`: whole blocks; `t`: the token's number in its tile, for its peaks, which are added to `peaks`
///
/// Plain code, compiled once for each instruction set: see [`crate::kernels`].
#[inline(always)]
pub fn pair_up(row: &mut [i8], t: usize, peaks: &mut Vec<Peak>) -> i32 {
    let mut share = 0_i32;
    for (b, block) in row.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let kept: [i8; BLOCK] = std::array::from_fn(|i| block[i].max(ROLES.low[i]).min(ROLES.high[i]));
        // What is one group to the left.
        let mut left = kept;
        left.copy_within(..BLOCK - GROUP, GROUP);
        let (mut sum, mut beyond) = (0_i32, 0);
        for i in 0..BLOCK {
            let factor = (i16::from(left[i]) + 128) * ROLES.second[i] + ROLES.plain[i];
            sum += i32::from(factor) * i32::from(kept[i]);
            beyond |= block[i] ^ kept[i];
        }
        share = share.wrapping_add(sum);
        if beyond != 0 {
            share = share.wrapping_add(keep_peaks(block, &kept, (t, b), peaks));
        }
        for i in 0..BLOCK {
            block[i] = kept[i].wrapping_add(ROLES.bias[i]);
        }
    }
    share
}

/// Notes what `kept` leaves out of `block`, and returns how many units that is. Rare: out of line.
#[cold]
fn keep_peaks(block: &[i8; BLOCK], kept: &[i8; BLOCK], (t, b): (usize, usize), peaks: &mut Vec<Peak>) -> i32 {
    let mut total = 0;
    let groups = block.as_chunks::<GROUP>().0.iter().zip(kept.as_chunks::<GROUP>().0);
    for (g, (all, kept)) in groups.enumerate() {
        let units = std::array::from_fn(|i| all[i] - kept[i]);
        if units != [0; GROUP] {
            peaks.push(Peak { token: t as u32, group: (b * GROUPS + g) as u32, units });
            total += units.iter().map(|u| i32::from(*u)).sum::<i32>();
        }
    }
    total
}

/// Undoes [`pair_up`].
pub fn unpair(row: &mut [i8], t: usize, peaks: &[Peak]) {
    for block in row.as_chunks_mut::<BLOCK>().0 {
        for (x, bias) in block.iter_mut().zip(ROLES.bias) {
            *x = x.wrapping_sub(bias);
        }
    }
    for peak in peaks.iter().filter(|peak| peak.token as usize == t) {
        for (x, unit) in row[peak.group as usize * GROUP..].iter_mut().zip(peak.units) {
            *x += unit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum a kernel has, straight from the text above, of one row of weights.
    fn multiply(row: &[i8], w: &[i8], peaks: &[Peak], share: i32) -> i32 {
        let code = |i: usize| (w[i] + 1) as u8;
        let mut sum = -share;
        for block in 0..row.len() / BLOCK {
            for g in 0..GROUPS {
                for i in 0..GROUP {
                    let at = block * BLOCK + g * GROUP + i;
                    match g % STEP {
                        0 => {
                            let (first, second) = (at, at + GROUP);
                            let u = (row[first] as u8).wrapping_add(code(second));
                            let s = row[second].wrapping_add(code(first) as i8);
                            sum += i32::from(u) * i32::from(s);
                            sum -= i32::from(w[first]) * (i32::from(w[second]) + 128);
                        }
                        2 => sum += i32::from(code(at)) * i32::from(row[at]),
                        _ => {}
                    }
                }
            }
        }
        for peak in peaks {
            for (i, unit) in peak.units.into_iter().enumerate() {
                sum += i32::from(code(peak.group as usize * GROUP + i)) * i32::from(unit);
            }
        }
        sum
    }

    /// Pairs up `x`, multiplies and undoes it.
    fn check(x: &[i8], w: &[i8], what: std::fmt::Arguments<'_>) {
        let expected: i32 = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
        let (mut row, mut peaks) = (x.to_vec(), Vec::new());
        let share = pair_up(&mut row, 3, &mut peaks);
        assert_eq!(multiply(&row, w, &peaks, share), expected, "{what}");
        unpair(&mut row, 3, &peaks);
        assert_eq!(row, x, "{what}");
    }

    #[test]
    fn a_pair_is_the_sum_of_two_products_whatever_the_bytes_and_weights() {
        let bytes = i8::MIN..=i8::MAX;
        for (w1, w2) in [-1, 0, 1].into_iter().flat_map(|w1| [-1, 0, 1].map(|w2| (w1, w2))) {
            let w =
                std::array::from_fn::<i8, BLOCK, _>(
                    |i| if (i / GROUP).is_multiple_of(STEP) { w1 } else { w2 },
                );
            for x1 in bytes.clone() {
                for x2s in bytes.clone().collect::<Vec<i8>>().chunks(GROUP) {
                    let x = std::array::from_fn::<i8, BLOCK, _>(|i| match i / GROUP % STEP {
                        0 => x1,
                        _ => x2s[i % GROUP],
                    });
                    check(&x, &w, format_args!("{w1} * {x1} + {w2} * {x2s:?}"));
                }
            }
        }
    }

    #[test]
    fn vectors_of_peaks_are_whole_again() {
        let n = 6 * BLOCK;
        for (p, pattern) in [[127, 127], [-128, -128], [127, -128], [126, -127]].into_iter().enumerate() {
            for shift in 0..9 {
                let x: Vec<i8> = (0..n).map(|i| pattern[i % 2]).collect();
                let w: Vec<i8> = (0..n).map(|i| ((i / 5 + i * shift) % 3) as i8 - 1).collect();
                check(&x, &w, format_args!("pattern {p}, shift {shift}"));
            }
        }
    }

    #[test]
    fn only_what_pairs_cannot_hold_is_kept_aside() {
        let mut row = vec![0_i8; BLOCK];
        (row[0], row[1], row[4], row[8], row[127]) = (127, -128, -127, 127, 127); // 8: a plain group
        let mut peaks = Vec::new();
        pair_up(&mut row, 5, &mut peaks);
        let expected = [
            Peak { token: 5, group: 0, units: [1, -1, 0, 0] },
            Peak { token: 5, group: 31, units: [0, 0, 0, 1] },
        ];
        assert_eq!(peaks, expected);
    }
}
