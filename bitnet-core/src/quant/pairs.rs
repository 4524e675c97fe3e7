//! One set of tests for every ternary format: what is read of one is written in another and read again.

use std::collections::BTreeSet;

use super::scales::Scales;
use super::ternary::{Grain, I2sLayout, Packing, Reading};
use super::testing::{Rng, pack_iq2_bn_r4};
use super::tl_tiles::TileTable;
use crate::gguf::TensorType;

fn reading(rows: usize, cols: usize, bk: usize) -> Reading {
    let bm = if rows.is_multiple_of(96) { 96 } else { 32 };
    let text = format!("[a]\nm={rows}\nk={cols}\nbm={bm}\nbk={bk}\nbmm=32\n");
    Reading { tiles: Some(TileTable::parse(&text).unwrap()), ..Reading::default() }
}

/// Every format that is read, with the order of codes; the last is not written but by tests.
const FORMATS: [(&str, TensorType, I2sLayout); 9] = [
    ("I2_S", TensorType::I2_S, I2sLayout::A),
    ("I2_S in order b", TensorType::I2_S, I2sLayout::B),
    ("TL1", TensorType::TL1, I2sLayout::A),
    ("TL2", TensorType::TL2, I2sLayout::A),
    ("TQ1_0", TensorType::TQ1_0, I2sLayout::A),
    ("TQ2_0", TensorType::TQ2_0, I2sLayout::A),
    ("IQ1_BN", TensorType::IQ1_BN, I2sLayout::A),
    ("IQ2_BN", TensorType::IQ2_BN, I2sLayout::A),
    ("IQ2_BN_R4", TensorType::IQ2_BN_R4, I2sLayout::A),
];

/// The formats that hold matrices of this shape.
fn formats(rows: usize, cols: usize) -> Vec<(&'static str, Packing)> {
    let packing = |(name, ty, i2s): (&'static str, TensorType, I2sLayout)| {
        let bk = if ty == TensorType::TL2 { 96 } else { 16 };
        let packing = Packing::of(ty, rows, cols, &Reading { i2s, ..reading(rows, cols, bk) }).ok()??;
        let fits = cols.is_multiple_of(packing.row_unit()) && ty.n_bytes(&[rows, cols]).is_some();
        fits.then_some((name, packing))
    };
    FORMATS.into_iter().filter_map(packing).collect()
}

fn pack(packing: Packing, codes: &[i8], (rows, cols): (usize, usize), scales: &[f32]) -> Vec<u8> {
    let packed = packing.pack(codes, (rows, cols), scales);
    packed.unwrap_or_else(|| pack_iq2_bn_r4(codes, rows, cols, scales))
}

/// As many scales as the format keeps in all: one for the tensor, one for each row, or each its own.
fn scales(rng: &mut Rng, grain: Grain, rows: usize, per_row: usize, half: bool) -> Vec<f32> {
    let mut new = || match half {
        true => (1 + rng.below(2000)) as f32 / 1024.0, // half precision holds it
        false => f32::from_bits((0x3a00_0000 + rng.below(0x0800_0000)) as u32),
    };
    match grain {
        Grain::Tensor => vec![new(); rows * per_row],
        Grain::Row => (0..rows).map(|_| new()).flat_map(|scale| vec![scale; per_row]).collect(),
        Grain::Block => (0..rows * per_row).map(|_| new()).collect(),
    }
}

/// The coarsest form of these scales, if every one of them has a weight that is not zero.
fn said(scales: &[f32], per_row: usize) -> Scales {
    let all_equal = |scales: &[f32]| scales.iter().all(|scale| *scale == scales[0]);
    match () {
        () if all_equal(scales) => Scales::One(scales[0]),
        () if scales.chunks(per_row).all(all_equal) => {
            Scales::Rows(scales.iter().step_by(per_row).copied().collect())
        }
        () => Scales::Blocks(scales.to_vec()),
    }
}

#[test]
fn every_pair_of_formats_carries_codes_and_scales_through_or_has_no_room_for_them() {
    let tiled = [(32, 256), (96, 320), (64, 3200), (32, 640), (160, 1536), (192, 768)];
    let odd = [(1, 64), (1, 512), (3, 384), (3, 8640), (5, 768), (5, 192), (37, 512), (37, 320), (4, 64)];
    let mut rng = Rng(11);
    let mut seen = BTreeSet::new();
    for (rows, cols) in tiled.into_iter().chain(odd) {
        let shape = (rows, cols);
        let codes = rng.codes(rows * cols);
        let formats = formats(rows, cols);
        for &(from_name, from) in &formats {
            for grain in [Grain::Tensor, Grain::Row, Grain::Block] {
                let per_row = from.scales_per_row(cols);
                for &(to_name, to) in formats.iter().filter(|(_, to)| *to != Packing::Iq2BnR4) {
                    let half = from.has_half_scales() || to.has_half_scales();
                    let scales = scales(&mut rng, grain, rows, per_row, half);
                    let expected = said(&scales, per_row);
                    let finer = match (&expected, from.grain(), to.grain()) {
                        (Scales::One(_), ..) => false,
                        (_, Grain::Tensor, _) => continue, // not to be had in this format
                        (Scales::Blocks(_), Grain::Row, _) => continue,
                        (Scales::Rows(_), _, to) => to == Grain::Tensor,
                        (Scales::Blocks(_), _, to) => to != Grain::Block,
                    };
                    let how = format!("[{rows}, {cols}] from {from_name} to {to_name}: {expected:?}");
                    let read = from.read(&pack(from, &codes, shape, &scales), shape).unwrap();
                    assert!(read.0 == codes, "{how}");
                    assert_eq!(read.1, expected, "{how}");
                    let room = to.spread(&read.1, shape);
                    assert_eq!(room.is_none(), finer, "{how}");
                    if let Some(room) = room {
                        let again = to.read(&to.pack(&read.0, shape, &room).unwrap(), shape).unwrap();
                        assert!(again.0 == codes, "{how}");
                        assert_eq!(again.1, expected, "{how}");
                    }
                    let kind = match expected {
                        Scales::One(_) => "one",
                        Scales::Rows(_) => "rows",
                        Scales::Blocks(_) => "blocks",
                    };
                    seen.insert((from_name, to_name, kind));
                }
            }
        }
    }
    // Nine sources and eight targets; five sources with scales for rows, two of them also for blocks.
    assert_eq!(seen.len(), 9 * 8 + 5 * 8 + 2 * 8, "{seen:?}");
}
