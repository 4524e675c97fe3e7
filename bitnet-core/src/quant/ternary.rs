//! Any ternary tensor, whatever its format: which one it is, and its rows as codes and scales and back.
//!
//! Formats differ in where their scales stand ([`Grain`]); here every row comes with the scales that hold in it, so
//! that whoever reads a tensor need not know. The bytes of each format are drawn in its own file.

use std::ops::Range;

use super::codes::{CodeError, check_two_bits};
use super::i2s::{self, BLOCK, BLOCK_BYTES};
use super::scales::{Scales, mark_used};
use super::tl_tiles::{TileError, TileTable};
use super::{i2s_layouts, iq_bn, tl1, tl2, tq};
use crate::gguf::TensorType;
use crate::pages::zeros;

/// What files do not say about their ternary tensors, and a reader must know.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The order of the codes in I2_S tensors.
    pub i2s: I2sLayout,
    /// Tile sizes of TL1 and TL2 tensors; by default those of the models bitnet.cpp has presets for.
    pub tiles: Option<TileTable>,
}

/// The order of the codes in an I2_S tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum I2sLayout {
    /// Blocks of 128: [`i2s`].
    #[default]
    A,
    /// Blocks of 64: [`i2s_layouts`].
    B,
}

/// How a ternary tensor of one shape lies in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// I2_S in blocks of 128.
    I2s,
    /// I2_S in blocks of 64.
    I2sB,
    /// TL1 with these tiles.
    Tl1(tl1::Layout),
    /// TL2 with these tiles.
    Tl2(tl2::Layout),
    /// TQ1_0.
    Tq1_0,
    /// TQ2_0.
    Tq2_0,
    /// IQ1_BN.
    Iq1Bn,
    /// IQ2_BN.
    Iq2Bn,
    /// IQ2_BN, four rows interleaved.
    Iq2BnR4,
}

/// Why a tensor's bytes are not read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A code without a meaning.
    Code(CodeError),
    /// A scale that is infinite or not a number.
    Scale {
        /// The first row it holds in.
        row: usize,
        /// The scale.
        scale: f32,
    },
    /// There is no memory for what they mean.
    Memory,
}

/// How many weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// All of the tensor's.
    Tensor,
    /// Those of a row.
    Row,
    /// Those of a block of 256 in a row.
    Block,
}

impl Packing {
    /// How a tensor of this type and shape is packed; `None` if the type is not ternary.
    ///
    /// # Errors
    /// If it is cut into tiles whose sizes are not known, or do not fit the shape.
    pub fn of(
        ty: TensorType,
        rows: usize,
        cols: usize,
        reading: &Reading,
    ) -> Result<Option<Packing>, TileError> {
        let tiles = |built_in: fn() -> TileTable| match &reading.tiles {
            Some(stated) => stated.find(rows, cols).or_else(|_| built_in().find(rows, cols)),
            None => built_in().find(rows, cols),
        };
        Ok(Some(match ty {
            TensorType::I2_S if reading.i2s == I2sLayout::B => Packing::I2sB,
            TensorType::I2_S => Packing::I2s,
            TensorType::TL1 => Packing::Tl1(tl1::Layout::new(rows, cols, tiles(TileTable::tl1)?)?),
            TensorType::TL2 => Packing::Tl2(tl2::Layout::new(rows, cols, tiles(TileTable::tl2)?)?),
            TensorType::TQ1_0 => Packing::Tq1_0,
            TensorType::TQ2_0 => Packing::Tq2_0,
            TensorType::IQ1_BN => Packing::Iq1Bn,
            TensorType::IQ2_BN => Packing::Iq2Bn,
            TensorType::IQ2_BN_R4 => Packing::Iq2BnR4,
            _ => return Ok(None),
        }))
    }

    /// Whether tensors of this type are ternary, in whatever shape.
    #[must_use]
    pub fn is_of(ty: TensorType) -> bool {
        // Tiles that are not known are those of a ternary type.
        !matches!(Packing::of(ty, 0, 0, &Reading::default()), Ok(None))
    }

    /// How many weights share a scale.
    #[must_use]
    pub fn grain(self) -> Grain {
        match self {
            Packing::I2s | Packing::I2sB | Packing::Tl1(_) | Packing::Tl2(_) => Grain::Tensor,
            Packing::Iq1Bn | Packing::Iq2Bn | Packing::Iq2BnR4 => Grain::Row,
            Packing::Tq1_0 | Packing::Tq2_0 => Grain::Block,
        }
    }

    /// Whether its scales are kept in half precision.
    #[must_use]
    pub fn has_half_scales(self) -> bool {
        matches!(self, Packing::Tq1_0 | Packing::Tq2_0 | Packing::Iq1Bn)
    }

    /// Scales that [`unpack`](Packing::unpack) gives for a row of `cols` weights.
    #[must_use]
    pub fn scales_per_row(self, cols: usize) -> usize {
        match self.grain() {
            Grain::Block => cols / tq::BLOCK_LEN,
            Grain::Tensor | Grain::Row => 1,
        }
    }

    /// These scales as [`pack`](Packing::pack) takes them; `None` if they are finer than this format has room for.
    #[must_use]
    pub fn spread(self, scales: &Scales, (rows, cols): (usize, usize)) -> Option<Vec<f32>> {
        match (self.grain(), scales) {
            (Grain::Tensor, Scales::Rows(_) | Scales::Blocks(_)) => None,
            _ => scales.spread(rows, self.scales_per_row(cols)),
        }
    }

    /// What rows must be a multiple of.
    #[must_use]
    pub fn row_unit(self) -> usize {
        match self {
            Packing::I2s => BLOCK,
            Packing::I2sB | Packing::Iq1Bn | Packing::Iq2Bn | Packing::Iq2BnR4 => 64,
            Packing::Tq1_0 | Packing::Tq2_0 => tq::BLOCK_LEN,
            Packing::Tl1(_) | Packing::Tl2(_) => 1, // tiles were checked against the shape
        }
    }

    /// Some rows of a tensor, as codes and the scales that hold in them.
    ///
    /// - `bytes`: the whole tensor; `cols` a multiple of [`row_unit`](Packing::row_unit)
    /// - `codes`: `[range.len(), cols]`, overwritten with -1, 0, +1
    /// - `scales`: `[range.len(), scales_per_row(cols)]`, overwritten
    ///
    /// # Errors
    /// The first code without a meaning.
    ///
    /// # Panics
    /// If a length disagrees with the above or the format, or `range` ends beyond `rows`.
    pub fn unpack(
        self,
        bytes: &[u8],
        (rows, cols): (usize, usize),
        range: Range<usize>,
        codes: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), CodeError> {
        assert_eq!(scales.len(), range.len() * self.scales_per_row(cols), "scales of rows {range:?}");
        match self {
            Packing::I2s => {
                scales.fill(i2s_layouts::i2s_scale(bytes));
                unpack_i2s(bytes, (rows, cols), range, codes)
            }
            Packing::I2sB => {
                scales.fill(i2s_layouts::i2s_scale(bytes));
                i2s_layouts::unpack_i2s_b(bytes, rows, cols, range, codes)
            }
            Packing::Tl1(layout) => {
                scales.fill(layout.scale(bytes));
                layout.unpack(bytes, range, codes)
            }
            Packing::Tl2(layout) => {
                scales.fill(layout.scale(bytes));
                layout.unpack(bytes, range, codes)
            }
            Packing::Tq1_0 => tq::unpack_tq1_0(bytes, rows, cols, range, codes, scales),
            Packing::Tq2_0 => tq::unpack_tq2_0(bytes, rows, cols, range, codes, scales),
            Packing::Iq1Bn => iq_bn::unpack_iq1_bn(bytes, rows, cols, range, codes, scales),
            Packing::Iq2Bn => iq_bn::unpack_iq2_bn(bytes, rows, cols, range, codes, scales),
            Packing::Iq2BnR4 => iq_bn::unpack_iq2_bn_r4(bytes, rows, cols, range, codes, scales),
        }
    }

    /// A whole tensor: its codes, `[rows, cols]`, and its scales.
    ///
    /// - `bytes`: the whole tensor; `cols` a multiple of [`row_unit`](Packing::row_unit)
    ///
    /// # Errors
    /// The first code without a meaning, or scale that is no number; or that there is no memory for them.
    ///
    /// # Panics
    /// If a length disagrees with the format.
    pub fn read(self, bytes: &[u8], (rows, cols): (usize, usize)) -> Result<(Vec<i8>, Scales), Fault> {
        let per_row = self.scales_per_row(cols);
        let mut codes = zeros(rows * cols).ok_or(Fault::Memory)?;
        let mut scales = zeros(rows * per_row).ok_or(Fault::Memory)?;
        let mut used = zeros(scales.len()).ok_or(Fault::Memory)?;
        self.unpack(bytes, (rows, cols), 0..rows, &mut codes, &mut scales).map_err(Fault::Code)?;
        check_scales(&scales, per_row, 0)?;
        mark_used(&codes, &mut used);
        Ok((codes, Scales::coarsest(scales, &used, per_row)))
    }

    /// A whole tensor; `None` for IQ2_BN_R4, which is read but not written.
    ///
    /// - `codes`: `[rows, cols]`, each -1, 0 or +1
    /// - `scales`: `[rows, scales_per_row(cols)]`; one for the tensor where its grain is that, and the first counts
    ///
    /// # Panics
    /// If a length disagrees with the above or the format, or a code is not ternary.
    #[must_use]
    pub fn pack(self, codes: &[i8], (rows, cols): (usize, usize), scales: &[f32]) -> Option<Vec<u8>> {
        Some(match self {
            Packing::I2s => {
                let mut bytes = i2s::pack(codes);
                bytes.extend(i2s::tail(scales[0]));
                bytes
            }
            Packing::I2sB => i2s_layouts::pack_i2s_b(codes, rows, cols, scales[0]),
            Packing::Tl1(layout) => layout.pack(codes, scales[0]),
            Packing::Tl2(layout) => layout.pack(codes, scales[0]),
            Packing::Tq1_0 => tq::pack_tq1_0(codes, rows, cols, scales),
            Packing::Tq2_0 => tq::pack_tq2_0(codes, rows, cols, scales),
            Packing::Iq1Bn => iq_bn::pack_iq1_bn(codes, rows, cols, scales),
            Packing::Iq2Bn => iq_bn::pack_iq2_bn(codes, rows, cols, scales),
            Packing::Iq2BnR4 => return None,
        })
    }
}

/// Checks that every scale is finite. The rows begin with `first_row`.
///
/// # Errors
/// If one is not: the first such scale is named.
pub fn check_scales(scales: &[f32], per_row: usize, first_row: usize) -> Result<(), Fault> {
    match scales.iter().position(|s| !s.is_finite()) {
        Some(at) => Err(Fault::Scale { row: first_row + at / per_row, scale: scales[at] }),
        None => Ok(()),
    }
}

fn unpack_i2s(
    bytes: &[u8],
    (rows, cols): (usize, usize),
    range: Range<usize>,
    codes: &mut [i8],
) -> Result<(), CodeError> {
    assert!(cols.is_multiple_of(BLOCK), "rows of {cols} weights are not whole blocks of {BLOCK}");
    assert_eq!(bytes.len(), rows * (cols / 4) + i2s::TAIL_BYTES, "bytes of [{rows}, {cols}]");
    assert_eq!(codes.len(), range.len() * cols, "codes for rows {range:?} of {cols}");
    let blocks = bytes[range.start * (cols / 4)..range.end * (cols / 4)].as_chunks::<BLOCK_BYTES>().0;
    for (block, codes) in blocks.iter().zip(codes.as_chunks_mut::<BLOCK>().0) {
        for g in 0..4 {
            for j in 0..BLOCK_BYTES {
                codes[BLOCK_BYTES * g + j] = ((block[j] >> (6 - 2 * g)) & 3) as i8 - 1;
            }
        }
    }
    check_two_bits(codes, cols, range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::{Rng, row_splits};

    /// The types that a tensor can be written in.
    const WRITTEN: [TensorType; 7] = [
        TensorType::I2_S,
        TensorType::TL1,
        TensorType::TL2,
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::IQ1_BN,
        TensorType::IQ2_BN,
    ];

    #[test]
    fn i2s_rows_are_read_wherever_they_are_cut() {
        let (rows, cols) = (7, 384);
        let codes = Rng(5).codes(rows * cols);
        let bytes = Packing::I2s.pack(&codes, (rows, cols), &[0.75]).unwrap();
        for range in row_splits(rows) {
            let (mut c, mut s) = (vec![9; range.len() * cols], vec![0.0; range.len()]);
            Packing::I2s.unpack(&bytes, (rows, cols), range.clone(), &mut c, &mut s).unwrap();
            assert_eq!(c, codes[range.start * cols..range.end * cols]);
            assert!(s.iter().all(|s| *s == 0.75));
        }
        let mut bytes = bytes;
        bytes[3 * cols / 4 + 33] = 0x5d; // weight 128 + 64 + 1 of row 3
        let error = Packing::I2s.unpack(&bytes, (rows, cols), 0..rows, &mut vec![0; 7 * 384], &mut [0.0; 7]);
        assert_eq!(error, Err(CodeError::Code { row: 3, col: 193, found: 3, max: 2 }));
    }

    #[test]
    fn stated_tiles_come_before_those_built_in() {
        let text = "[a]\nm=3200\nk=3200\nbm=640\nbk=64\nbmm=32\n";
        let reading = Reading { tiles: Some(TileTable::parse(text).unwrap()), ..Reading::default() };
        let of = |rows, cols, reading: &Reading| Packing::of(TensorType::TL1, rows, cols, reading);
        assert_ne!(of(3200, 3200, &reading), of(3200, 3200, &Reading::default()));
        assert_eq!(of(1536, 1536, &reading), of(1536, 1536, &Reading::default()));
        assert!(of(128, 128, &reading).is_err());
        assert_eq!(Packing::of(TensorType::F16, 4, 4, &reading), Ok(None));
        assert!(WRITTEN.into_iter().all(Packing::is_of) && Packing::is_of(TensorType::IQ2_BN_R4));
        assert!(!Packing::is_of(TensorType::F16) && !Packing::is_of(TensorType::MXFP4));
    }
}
