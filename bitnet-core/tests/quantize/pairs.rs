//! From every format to every other, as files.

use std::fs;

use bitnet_core::gguf::{GgufWriter, TensorType, Value};
use bitnet_core::quant::scales::Scales;
use bitnet_core::quant::ternary::{Grain, I2sLayout, Packing, Reading};
use bitnet_core::quant::tl_tiles::TileTable;
use bitnet_core::quantize::WRITTEN;
use half::f16;

use super::{open, options, run};

const NAME: &str = "blk.0.attn_q.weight";

/// An IQ2_BN_R4 tensor, weight by weight as the format's description has it: nothing but tests writes it.
fn pack_r4(codes: &[i8], rows: usize, cols: usize, scales: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; rows * (4 + cols / 4)];
    for (row, codes) in codes.chunks(cols).enumerate() {
        let (group, k) = (row / 4 * (16 + cols), row % 4);
        bytes[group + 4 * k..][..4].copy_from_slice(&scales[row].to_le_bytes());
        for (col, code) in codes.iter().enumerate() {
            let (ib, l, s, i) = (col / 64, col % 64 / 16, col % 16 / 4, col % 4);
            bytes[group + 16 + 64 * ib + 16 * l + 4 * k + i] |= ((code + 1) as u8) << (2 * s);
        }
    }
    bytes
}

/// What is said of scales that `to` has no room for.
fn no_room(scales: &Scales, to: TensorType, grain: Grain) -> String {
    let kept = if grain == Grain::Row { "row" } else { "tensor" };
    let (parts, part, fit) = match scales {
        Scales::Rows(_) => ("rows", "row", "iq1_bn and iq2_bn"),
        _ => ("blocks of 256 weights", "block", "tq1_0 and tq2_0"),
    };
    format!(
        "in.gguf: tensor {NAME}: its {parts} have scales of their own, and {to} keeps one for each {kept}: {fit} keep \
         one for each {part}"
    )
}

#[test]
fn every_pair_keeps_codes_and_scales_or_is_refused_for_want_of_room() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    let (mut carried, mut refused) = (0, 0);
    // Rows that make no tiles and no groups of four, and rows that do.
    for (rows, cols) in [(37, 768), (96, 768)] {
        let shape = (rows, cols);
        let codes: Vec<i8> = (0..rows * cols).map(|i| (i * i * 7 % 101 % 3) as i8 - 1).collect();
        let table = format!("[Kernels]\nm={rows}\nk={cols}\nbm=96\nbk=96\nbmm=32\n");
        let reading = |i2s| Reading { i2s, tiles: Some(TileTable::parse(&table).unwrap()) };
        let fits = |ty: TensorType| rows == 96 || !matches!(ty.name(), "TL1" | "TL2" | "IQ2_BN_R4");
        let packing = |ty, i2s| Packing::of(ty, rows, cols, &reading(i2s)).unwrap().unwrap();
        let targets = WRITTEN.into_iter().filter(|ty| fits(*ty));
        let sources = targets.clone().chain([TensorType::IQ2_BN_R4]).filter(|ty| fits(*ty));
        let sources = sources.map(|ty| (ty, I2sLayout::A)).chain([(TensorType::I2_S, I2sLayout::B)]);
        for (from, i2s) in sources {
            let source = packing(from, i2s);
            let per_row = source.scales_per_row(cols);
            let grains = match source.grain() {
                Grain::Tensor => &[Grain::Tensor][..],
                Grain::Row => &[Grain::Tensor, Grain::Row],
                Grain::Block => &[Grain::Tensor, Grain::Row, Grain::Block],
            };
            for grain in grains {
                let scales: Vec<f32> = (0..rows * per_row)
                    .map(|i| match grain {
                        Grain::Tensor => 0.123_456_79,
                        Grain::Row => 0.1 + 0.037 * (i / per_row) as f32,
                        Grain::Block => 0.1 + 0.011 * i as f32,
                    })
                    .collect();
                let packed = source.pack(&codes, shape, &scales);
                let bytes = packed.unwrap_or_else(|| pack_r4(&codes, rows, cols, &scales));
                let (_, kept) = source.read(&bytes, shape).unwrap();
                let mut writer = GgufWriter::new();
                writer.set("general.architecture", Value::Str(b"bitnet")).unwrap();
                writer.declare(NAME, from, &[rows, cols]).unwrap();
                writer.write_file(&path, |out| out.tensor(NAME, &bytes)).unwrap();
                for to in targets.clone() {
                    let how =
                        format!("[{rows}, {cols}] from {from} ({i2s:?}) to {to}, one for each {grain:?}");
                    let target = packing(to, I2sLayout::A);
                    let ran = run(&path, &out, &options(to, &reading(i2s)));
                    let room = match (&kept, target.grain()) {
                        (Scales::One(_), _) | (_, Grain::Block) => true,
                        (Scales::Rows(_), grain) => grain == Grain::Row,
                        (Scales::Blocks(_), _) => false,
                    };
                    if !room {
                        let text = ran.expect_err(&how).to_string();
                        assert!(text.ends_with(&no_room(&kept, to, target.grain())), "{how}: {text}");
                        assert!(!out.exists(), "{how}");
                        refused += 1;
                        continue;
                    }
                    ran.expect(&how);
                    let written = open(&out);
                    let tensor = written.tensor(NAME).unwrap();
                    assert_eq!(tensor.info.ty, to, "{how}");
                    let (found, scales) = target.read(tensor.bytes, shape).unwrap();
                    let stored =
                        |s: f32| if target.has_half_scales() { f16::from_f32(s).to_f32() } else { s };
                    assert!(found == codes, "{how}");
                    assert_eq!(scales, kept.map(stored), "{how}");
                    fs::remove_file(&out).unwrap();
                    carried += 1;
                }
            }
        }
    }
    // Of 37 rows 6 sources and 5 targets, of 96 rows 9 and 7.
    assert_eq!((carried, refused), (6 * 5 + 4 * 4 + 4 + 9 * 7 + 5 * 4 + 4, 4 + 6 + 5 * 3 + 10));
}
