//! Ternary tensors of other formats, repacked at load into the order the kernels read. No weight changes.

use crate::pages::zeros;
use crate::quant::i2s::{BLOCK, BLOCK_BYTES};
use crate::quant::scales::{Scales, mark_used};
use crate::quant::ternary::{Fault, Packing, check_scales};
use crate::team::{default_threads, spread};

/// A ternary matrix in blocks of 128, whatever its format was.
#[derive(Debug)]
pub(super) struct Repacked {
    /// `[rows, cols / 4]` bytes, columns padded with zero weights to a multiple of 128.
    pub(super) codes: Vec<u8>,
    pub(super) scales: Scales,
}

/// Rows that are unpacked at a time: their codes stay in the cache.
const RUN: usize = 16;

/// Consecutive rows of the result, to be filled.
struct Rows<'a> {
    /// Number of the first row.
    first: usize,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    /// For each scale, whether a weight other than zero has it.
    used: &'a mut [bool],
}

impl<'a> Rows<'a> {
    /// Cuts them into parts of `n` rows; the last part has what is left.
    ///
    /// - `row_bytes`, `per_row`: codes and scales of a row
    fn chunks(self, n: usize, row_bytes: usize, per_row: usize) -> impl Iterator<Item = Rows<'a>> {
        let codes = self.codes.chunks_mut(n * row_bytes);
        let scales = self.scales.chunks_mut(n * per_row).zip(self.used.chunks_mut(n * per_row));
        let parts = (self.first..).step_by(n).zip(codes.zip(scales));
        parts.map(|(first, (codes, (scales, used)))| Rows { first, codes, scales, used })
    }
}

/// Repacks a tensor, on a thread for each processor, as far as the system gives them.
///
/// - `bytes`: the whole tensor `[rows, cols]`
pub(super) fn repack(packing: Packing, bytes: &[u8], rows: usize, cols: usize) -> Result<Repacked, Fault> {
    let per_row = packing.scales_per_row(cols);
    let row_bytes = cols.next_multiple_of(BLOCK) / 4;
    let mut codes = zeros(rows * row_bytes).ok_or(Fault::Memory)?;
    let mut scales = zeros(rows * per_row).ok_or(Fault::Memory)?;
    let mut used = zeros(scales.len()).ok_or(Fault::Memory)?;

    let share = rows.div_ceil(default_threads()).next_multiple_of(RUN);
    let all = Rows { first: 0, codes: &mut codes, scales: &mut scales, used: &mut used };
    let fill = |share: Rows<'_>| -> Result<(), Fault> {
        let mut unpacked = zeros(RUN * cols).ok_or(Fault::Memory)?;
        for Rows { first, codes, scales, used } in share.chunks(RUN, row_bytes, per_row) {
            let n = codes.len() / row_bytes;
            let unpacked = &mut unpacked[..n * cols];
            packing.unpack(bytes, (rows, cols), first..first + n, unpacked, scales).map_err(Fault::Code)?;
            check_scales(scales, per_row, first)?;
            mark_used(unpacked, used);
            for (row, codes) in unpacked.chunks_exact(cols).zip(codes.chunks_exact_mut(row_bytes)) {
                pack_row(row, codes);
            }
        }
        Ok(())
    };
    spread(all.chunks(share, row_bytes, per_row).collect(), fill)
        .into_iter()
        .collect::<Result<(), Fault>>()?;
    Ok(Repacked { codes, scales: Scales::coarsest(scales, &used, per_row) })
}

/// Packs one row in blocks of 128, the last padded with zeros.
fn pack_row(row: &[i8], bytes: &mut [u8]) {
    for (block, bytes) in row.chunks(BLOCK).zip(bytes.as_chunks_mut::<BLOCK_BYTES>().0) {
        let mut whole = [0; BLOCK];
        whole[..block.len()].copy_from_slice(block);
        for j in 0..BLOCK_BYTES {
            let code = |g: usize| (whole[BLOCK_BYTES * g + j] + 1) as u8 & 3;
            bytes[j] = code(0) << 6 | code(1) << 4 | code(2) << 2 | code(3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::codes::CodeError;
    use crate::quant::i2s;

    fn codes(n: usize) -> Vec<i8> {
        (0..n).map(|i| (i * 7 % 11 % 3) as i8 - 1).collect()
    }

    #[test]
    fn codes_survive_and_short_rows_are_filled_up_with_zeros() {
        for (rows, cols) in [(1, 64), (37, 192), (200, 256), (64, 320)] {
            let codes = codes(rows * cols);
            let bytes = Packing::Iq2Bn.pack(&codes, (rows, cols), &vec![0.5; rows]).unwrap();
            let repacked = repack(Packing::Iq2Bn, &bytes, rows, cols).unwrap();
            assert_eq!(repacked.scales, Scales::One(0.5));
            let wide = cols.next_multiple_of(BLOCK);
            let expected: Vec<i8> = codes
                .chunks(cols)
                .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, wide - cols)))
                .collect();
            assert_eq!(repacked.codes, i2s::pack(&expected), "[{rows}, {cols}]");
        }
    }

    #[test]
    fn memory_that_is_not_there_is_no_panic() {
        let (rows, cols) = (1 << 50, 256);
        assert_eq!(repack(Packing::Iq2Bn, &[], rows, cols).unwrap_err(), Fault::Memory);
        assert_eq!(Packing::Iq2Bn.read(&[], (rows, cols)), Err(Fault::Memory));
    }

    #[test]
    fn the_first_fault_is_named_wherever_threads_cut() {
        let (rows, cols) = (100, 256);
        let mut scales = vec![0.5; rows];
        scales[77] = f32::NAN;
        let bytes = Packing::Iq2Bn.pack(&codes(rows * cols), (rows, cols), &scales).unwrap();
        let fault = repack(Packing::Iq2Bn, &bytes, rows, cols).unwrap_err();
        assert!(matches!(fault, Fault::Scale { row: 77, scale } if scale.is_nan()), "{fault:?}");
        let mut bytes = Packing::Iq2Bn.pack(&codes(rows * cols), (rows, cols), &vec![0.5; rows]).unwrap();
        bytes[99 * (4 + cols / 4) + 4] |= 3;
        let fault = repack(Packing::Iq2Bn, &bytes, rows, cols).unwrap_err();
        assert_eq!(fault, Fault::Code(CodeError::Code { row: 99, col: 0, found: 3, max: 2 }));
    }
}
