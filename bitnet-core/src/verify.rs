//! Looks at every ternary weight of a model once: whether its bytes mean something, and how the codes are spread.

use std::ops::Range;

use crate::error::Result;
use crate::gguf::{Gguf, TensorInfo};
use crate::model::matrix::{malformed, packing};
use crate::pages::zeros;
use crate::quant::ternary::{Fault, Packing, Reading, check_scales};
use crate::team::{default_threads, spread};

/// How the codes and scales of a ternary tensor are spread. A weight is `code * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Census {
    /// Weights of code -1.
    pub minus: u64,
    /// Weights of code 0.
    pub zero: u64,
    /// Weights of code +1.
    pub plus: u64,
    /// The smallest scale, and the largest; all are finite.
    pub scales: (f32, f32),
}

/// Rows that are unpacked at a time: their codes stay in the cache.
const RUN: usize = 16;

/// Counts the codes of a tensor, with as many threads as there are processors, if the system gives them; `None` if its
/// type is not ternary.
///
/// Tensors of more than two dimensions are taken as matrices of all their rows.
///
/// # Errors
/// If its rows are no whole blocks, nothing says how it is cut into tiles, a code has no meaning (the first such code
/// is named), or a scale is infinite or not a number.
pub fn census(gguf: &Gguf, info: &TensorInfo, reading: &Reading) -> Result<Option<Census>> {
    let Some((&cols, outer)) = info.shape.split_last() else { return Ok(None) };
    let rows = outer.iter().product(); // no overflow: the tensor's size was checked against the file's
    let Some(packing) = packing(gguf, &info.name, info.ty, rows, cols, reading)? else { return Ok(None) };
    let bytes =
        gguf.bytes_of(info).expect("a tensor of this file, whose range was checked when it was opened");
    let counted = count(packing, bytes, rows, cols);
    gguf.release(info);
    counted.map(Some).map_err(|fault| malformed(gguf, &info.name, packing, fault))
}

impl Census {
    /// The census of no weights.
    const NONE: Census = Census { minus: 0, zero: 0, plus: 0, scales: (f32::INFINITY, f32::NEG_INFINITY) };

    fn add(self, other: Census) -> Census {
        Census {
            minus: self.minus + other.minus,
            zero: self.zero + other.zero,
            plus: self.plus + other.plus,
            scales: (self.scales.0.min(other.scales.0), self.scales.1.max(other.scales.1)),
        }
    }

    /// Weights in all.
    #[must_use]
    pub fn weights(&self) -> u64 {
        self.minus + self.zero + self.plus
    }
}

fn count(packing: Packing, bytes: &[u8], rows: usize, cols: usize) -> Result<Census, Fault> {
    let share = rows.div_ceil(default_threads()).next_multiple_of(RUN);
    let shares = (0..rows).step_by(share).map(|first| first..rows.min(first + share)).collect();
    let parts = spread(shares, |range: Range<usize>| count_rows(packing, bytes, (rows, cols), range));
    // In the order of the rows, so that the first fault is the first.
    parts.into_iter().try_fold(Census::NONE, |sum, part| Ok(sum.add(part?)))
}

fn count_rows(
    packing: Packing,
    bytes: &[u8],
    (rows, cols): (usize, usize),
    range: Range<usize>,
) -> Result<Census, Fault> {
    let (per_row, most) = (packing.scales_per_row(cols), RUN.min(range.len()));
    let mut codes = zeros(most * cols).ok_or(Fault::Memory)?;
    let mut scales = zeros(most * per_row).ok_or(Fault::Memory)?;
    let mut sum = Census::NONE;
    for first in range.clone().step_by(RUN) {
        let n = RUN.min(range.end - first);
        let (codes, scales) = (&mut codes[..n * cols], &mut scales[..n * per_row]);
        packing.unpack(bytes, (rows, cols), first..first + n, codes, scales).map_err(Fault::Code)?;
        check_scales(scales, per_row, first)?;
        let all = codes.len() as u64;
        let minus = codes.iter().filter(|code| **code < 0).count() as u64;
        let plus = codes.iter().filter(|code| **code > 0).count() as u64;
        let range = scales.iter().fold(Census::NONE.scales, |(low, high), s| (low.min(*s), high.max(*s)));
        sum = sum.add(Census { minus, zero: all - minus - plus, plus, scales: range });
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::codes::CodeError;

    fn codes(n: usize) -> Vec<i8> {
        (0..n).map(|i| (i * 7 % 11 % 3) as i8 - 1).collect()
    }

    #[test]
    fn every_code_is_counted_wherever_threads_cut() {
        for (rows, cols) in [(1, 256), (37, 256), (200, 512)] {
            let mut codes = codes(rows * cols);
            codes[rows * cols - 1] = 1;
            let n = |code: i8| codes.iter().filter(|c| **c == code).count() as u64;
            for packing in
                [Packing::I2s, Packing::I2sB, Packing::Tq1_0, Packing::Tq2_0, Packing::Iq1Bn, Packing::Iq2Bn]
            {
                let scales = vec![0.5; rows * packing.scales_per_row(cols)];
                let bytes = packing.pack(&codes, (rows, cols), &scales).unwrap();
                let found = count(packing, &bytes, rows, cols).unwrap();
                let expected = Census { minus: n(-1), zero: n(0), plus: n(1), scales: (0.5, 0.5) };
                assert_eq!(found, expected, "{packing:?} [{rows}, {cols}]");
                assert_eq!(found.weights(), (rows * cols) as u64);
            }
        }
    }

    #[test]
    fn scales_of_rows_are_told_by_their_range_and_the_first_fault_by_its_place() {
        let (rows, cols) = (100, 256);
        let mut scales: Vec<f32> = (0..rows).map(|row| 1.0 + row as f32).collect();
        let pack = |scales: &[f32]| Packing::Iq2Bn.pack(&codes(rows * cols), (rows, cols), scales).unwrap();
        assert_eq!(count(Packing::Iq2Bn, &pack(&scales), rows, cols).unwrap().scales, (1.0, 100.0));
        scales[77] = f32::NEG_INFINITY;
        let fault = count(Packing::Iq2Bn, &pack(&scales), rows, cols);
        assert_eq!(fault, Err(Fault::Scale { row: 77, scale: f32::NEG_INFINITY }));
        let mut bytes = pack(&scales);
        for row in [40, 99] {
            bytes[row * (4 + cols / 4) + 4] |= 3;
        }
        let fault = count(Packing::Iq2Bn, &bytes, rows, cols);
        assert_eq!(fault, Err(Fault::Code(CodeError::Code { row: 40, col: 0, found: 3, max: 2 })));
    }
}
