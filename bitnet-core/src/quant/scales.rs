//! The scales of a ternary matrix, as coarse as they can be said without changing a weight.
//!
//! Formats with a scale for each row or block mostly repeat one number, because the matrix was trained with one. Where
//! they do, the matrix is multiplied as fast as any other; where they do not, nothing is averaged.

use super::codes::uniform_scale;

/// The scales of a matrix `[rows, cols]`: `weight = code * scale`.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// One for all weights.
    One(f32),
    /// `[rows]`
    Rows(Vec<f32>),
    /// `[rows, n]`: rows are cut into `n` blocks of equal length.
    Blocks(Vec<f32>),
}

/// Whether a weight under each scale is not zero: `used[i]` belongs to `scales[i]`, in row-major order.
///
/// Under an unused scale every weight is zero, whatever it is; writers that take the largest weight for the scale
/// write 0 there.
///
/// - `codes`: `[rows, cols]`; `used`: `[rows, n]`, overwritten
///
/// # Panics
/// If the codes cannot be cut into `used.len()` runs of one length.
pub fn mark_used(codes: &[i8], used: &mut [bool]) {
    if used.is_empty() {
        return assert!(codes.is_empty(), "{} codes without a scale", codes.len());
    }
    assert!(codes.len().is_multiple_of(used.len()), "{} codes, {} scales", codes.len(), used.len());
    let run = (codes.len() / used.len()).max(1);
    for (used, codes) in used.iter_mut().zip(codes.chunks_exact(run)) {
        *used = codes.iter().fold(0, |any, code| any | code) != 0;
    }
}

impl Scales {
    /// The coarsest form of these.
    ///
    /// - `scales`: `[rows, per_row]`; `used`: as many, as [`mark_used`] says
    ///
    /// # Panics
    /// If the lengths differ or are not whole rows.
    #[must_use]
    pub fn coarsest(mut scales: Vec<f32>, used: &[bool], per_row: usize) -> Scales {
        assert_eq!(scales.len(), used.len(), "scales and their use");
        assert!(scales.len().is_multiple_of(per_row), "{} scales are not rows of {per_row}", scales.len());
        if let Some(one) = common(&scales, used) {
            return Scales::One(one);
        }
        let rows = scales.chunks_exact(per_row).zip(used.chunks_exact(per_row));
        if let Some(rows) = rows.map(|(scales, used)| common(scales, used)).collect() {
            return Scales::Rows(rows);
        }
        // A block without a weight shall not differ from its neighbours by a scale that means nothing.
        for (scale, used) in scales.iter_mut().zip(used) {
            if !used {
                *scale = 0.0;
            }
        }
        Scales::Blocks(scales)
    }

    /// These as `[rows, per_row]`, for a format that keeps so many for each row; `None` if some rows have more.
    ///
    /// # Panics
    /// If there are neither one scale nor whole rows of them.
    #[must_use]
    pub fn spread(&self, rows: usize, per_row: usize) -> Option<Vec<f32>> {
        match self {
            Scales::One(scale) => Some(vec![*scale; rows * per_row]),
            Scales::Rows(scales) => {
                assert_eq!(scales.len(), rows, "a scale for each row");
                Some(scales.iter().flat_map(|scale| std::iter::repeat_n(*scale, per_row)).collect())
            }
            Scales::Blocks(scales) => (scales.len() == rows * per_row).then(|| scales.clone()),
        }
    }

    /// These scales, each of them changed.
    #[must_use]
    pub fn map(&self, change: impl Fn(f32) -> f32) -> Scales {
        match self {
            Scales::One(scale) => Scales::One(change(*scale)),
            Scales::Rows(scales) => Scales::Rows(scales.iter().map(|s| change(*s)).collect()),
            Scales::Blocks(scales) => Scales::Blocks(scales.iter().map(|s| change(*s)).collect()),
        }
    }

    /// Every scale once.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        match self {
            Scales::One(scale) => std::slice::from_ref(scale),
            Scales::Rows(scales) | Scales::Blocks(scales) => scales,
        }
    }
}

/// The scale that all used ones are, to the bit; if none is used, the one they all are, or 0.
fn common(scales: &[f32], used: &[bool]) -> Option<f32> {
    let mut of_use = scales.iter().zip(used).filter(|(_, used)| **used).map(|(s, _)| *s);
    let Some(first) = of_use.next() else { return Some(uniform_scale(scales).unwrap_or(0.0)) };
    of_use.all(|s| s.to_bits() == first.to_bits()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coarsest(codes: &[i8], scales: &[f32], per_row: usize) -> Scales {
        let mut used = vec![false; scales.len()];
        mark_used(codes, &mut used);
        Scales::coarsest(scales.to_vec(), &used, per_row)
    }

    #[test]
    fn scales_are_as_coarse_as_the_weights_allow() {
        let ones = [1, 1, -1, 0, 0, 1, -1, -1];
        assert_eq!(coarsest(&ones, &[0.5; 4], 2), Scales::One(0.5));
        assert_eq!(coarsest(&ones, &[0.5, 0.5, 0.25, 0.25], 2), Scales::Rows(vec![0.5, 0.25]));
        let differ = [0.5, 0.75, 0.25, 0.25];
        assert_eq!(coarsest(&ones, &differ, 2), Scales::Blocks(differ.to_vec()));
        assert_eq!(coarsest(&[], &[], 1), Scales::One(0.0));
    }

    #[test]
    fn scales_are_spread_over_rows_and_blocks_that_have_room() {
        let rows = Scales::Rows(vec![1.0, 2.0]);
        assert_eq!(Scales::One(1.0).spread(2, 2), Some(vec![1.0; 4]));
        assert_eq!(rows.spread(2, 2), Some(vec![1.0, 1.0, 2.0, 2.0]));
        let blocks = Scales::Blocks(vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!((blocks.spread(2, 1), blocks.spread(2, 2)), (None, Some(vec![1.0, 2.0, 3.0, 4.0])));
        assert_eq!(rows.map(|s| 2.0 * s).values(), [2.0, 4.0]);
    }

    #[test]
    fn a_scale_of_zeros_says_nothing() {
        let codes = [1, 1, 0, 0, 0, 1, -1, -1];
        assert_eq!(coarsest(&codes, &[0.5, 0.0, 0.5, 0.5], 2), Scales::One(0.5));
        assert_eq!(coarsest(&codes, &[0.5, 0.0, 0.75, 0.75], 2), Scales::Rows(vec![0.5, 0.75]));
        assert_eq!(
            coarsest(&codes, &[0.5, 9.0, 0.75, 0.5], 2),
            Scales::Blocks(vec![0.5, 0.0, 0.75, 0.5]),
            "its value is gone where it does not matter"
        );
        assert_eq!(coarsest(&[0; 8], &[0.5; 4], 2), Scales::One(0.5));
        assert_eq!(coarsest(&[0; 8], &[0.5, 0.25], 1), Scales::One(0.0));
    }
}
