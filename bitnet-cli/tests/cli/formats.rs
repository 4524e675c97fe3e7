//! One model in every ternary format, on every instruction set: what it says, and which kernels take its matrices.

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_core::Isa;
use bitnet_core::gguf::{Access, Gguf, GgufWriter, TensorInfo, TensorType};
use bitnet_core::quant::i2s_layouts::a_to_b;
use bitnet_core::quant::ternary::Packing;

use crate::golden::{Golden, with_switches};
use crate::instrument::{dispatches, ternary_kernel};
use crate::quantize::quantize;
use crate::support::{Ran, bitnet};
use crate::tiny::tiny;

/// What the model says, as ids.
fn says(model: &Path, line: &str) -> String {
    let model = model.to_str().unwrap();
    let line = format!("run -m {model} --tokens 5,6,7 -n 12 --greedy --json --quiet {line}");
    let object: serde_json::Value = serde_json::from_str(bitnet(line.split_whitespace()).done()).unwrap();
    object["tokens"].to_string()
}

/// Requires that every ternary matrix is said to be of this format and goes to the kernel that it should, on every
/// instruction set; a build that traces nothing has nothing to say. Returns how many matrices have rows of whole 256s,
/// and how many have not.
fn traced(model: &Path, flags: &str, ty: &str, repacked: bool) -> [usize; 2] {
    let mut rows = [0, 0];
    for isa in Isa::available().into_iter().filter(|_| cfg!(feature = "instrument")) {
        let line = format!("run -m {} --tokens 5 -n 1 --greedy --quiet --isa {isa} {flags}", model.display());
        let ran: Ran =
            with_switches(line.split_whitespace(), &[("BITNET_TRACE_QUANT", "1")]).output().unwrap().into();
        ran.done();
        let all = dispatches(&ran.stderr);
        let matrices: Vec<_> = all.iter().filter(|[tensor, ..]| tensor.starts_with("blk.")).collect();
        assert_eq!(matrices.len(), 14, "two layers: {ran:?}");
        rows = [0, 0];
        for [tensor, format, kernel, shape] in matrices {
            let cols: usize = shape.trim_end_matches(']').rsplit(' ').next().unwrap().parse().unwrap();
            let narrow = usize::from(!cols.is_multiple_of(256));
            rows[narrow] += 1;
            let expected = match repacked {
                true => (ty, format!("{}-{}", ["qk256", "i2s"][narrow], ternary_kernel(isa))),
                false => (["QK256", "I2_S"][narrow], ternary_kernel(isa).to_owned()),
            };
            assert_eq!((&**format, kernel.clone()), expected, "{tensor} {shape} in {ty} on {isa}");
        }
    }
    rows
}

/// A file of tile sizes for every shape of `model`.
fn tiles(folder: &Path, model: &Path, bk: usize) -> String {
    let gguf = Gguf::open(model, Access::Read).unwrap();
    let ternary = gguf.tensors().iter().filter(|t| t.ty == TensorType::I2_S);
    let section = |[m, k]: [usize; 2]| format!("[Kernels]\nm = {m}\nk = {k}\nbm = 32\nbk = {bk}\nbmm = 32\n");
    let mut sections: Vec<String> = ternary.map(|t| section(t.matrix().unwrap())).collect();
    sections.sort_unstable();
    sections.dedup();
    let path = folder.join(format!("kernel_config_{bk}.ini"));
    fs::write(&path, sections.concat()).unwrap();
    format!("--tl-config {}", path.display())
}

/// The model with other bytes in its I2_S tensors, as type `ty`: for formats that nothing here writes.
fn recast(from: &Path, to: &Path, ty: TensorType, bytes: impl Fn(&TensorInfo, Vec<u8>) -> Vec<u8>) {
    let source = Gguf::open(from, Access::Read).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for t in source.tensors() {
        writer.declare(&t.name, if t.ty == TensorType::I2_S { ty } else { t.ty }, &t.shape).unwrap();
    }
    let bytes = |t: &TensorInfo| {
        let old = source.bytes_of(t).unwrap().to_owned();
        if t.ty == TensorType::I2_S { bytes(t, old) } else { old }
    };
    writer
        .write_file(to, |out| source.tensors().iter().try_for_each(|t| out.tensor(&t.name, &bytes(t))))
        .unwrap();
}

fn in_order_b(_: &TensorInfo, mut bytes: Vec<u8>) -> Vec<u8> {
    let n_codes = bytes.len() - 32;
    a_to_b(&mut bytes[..n_codes]);
    bytes
}

/// IQ2_BN_R4: four rows interleaved, as its description has it.
fn interleaved(t: &TensorInfo, bytes: Vec<u8>) -> Vec<u8> {
    let [rows, cols] = t.matrix().unwrap();
    let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows]);
    Packing::I2s.unpack(&bytes, (rows, cols), 0..rows, &mut codes, &mut scales).unwrap();
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

#[test]
fn every_format_says_the_same_by_its_own_kernel_on_every_instruction_set() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("i2_s.gguf");
    // The scales are in half precision once, so that no format changes them.
    let half = folder.path().join("half.gguf");
    quantize(tiny(), &half, "--type tq2_0").done();
    quantize(&half, &plain, "--type i2_s").done();
    let expected = says(&plain, "");
    assert!(expected.contains(','), "{expected}");
    let check = |path: &Path, flags: &str, ty: &str, repacked| {
        for isa in Isa::available() {
            assert_eq!(says(path, &format!("--isa {isa} {flags}")), expected, "{ty} on {isa}");
        }
        traced(path, flags, ty, repacked);
    };
    let [tl1, tl2] = [64, 96].map(|bk| tiles(folder.path(), &plain, bk));
    for ty in ["i2_s", "tl1", "tl2", "tq1_0", "tq2_0", "iq1_bn", "iq2_bn"] {
        let path = folder.path().join(format!("{ty}-again.gguf"));
        let flags = match ty {
            "tl1" => &*tl1,
            "tl2" => &*tl2,
            _ => "",
        };
        let ran = quantize(&plain, &path, &format!("--type {ty} {flags}"));
        assert_eq!(ran.done(), "");
        assert!(ran.stderr.contains("reads back the same") && !ran.stderr.contains("rounds"), "{ran:?}");
        check(&path, flags, &ty.to_uppercase(), ty != "i2_s");
    }
    let [b, r4] = ["b", "r4"].map(|name| folder.path().join(format!("{name}.gguf")));
    recast(&plain, &b, TensorType::I2_S, in_order_b);
    check(&b, "--i2s-layout b", "I2_S", true);
    recast(&plain, &r4, TensorType::IQ2_BN_R4, interleaved);
    check(&r4, "", "IQ2_BN_R4", true);
}

/// Rows of 384, which are no whole 256s, go to the narrower kernel and say so.
#[test]
fn rows_of_half_runs_have_a_name_of_their_own_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let plain = PathBuf::from(Golden::of("b158-hd96").model());
    let [_, narrow] = traced(&plain, "", "I2_S", false);
    assert!(narrow > 0 || !cfg!(feature = "instrument"), "no matrix has such rows");
    let [tl1, tl2] = [64, 96].map(|bk| tiles(folder.path(), &plain, bk));
    for ty in ["tl1", "tl2", "iq1_bn", "iq2_bn"] {
        let path = folder.path().join(format!("{ty}.gguf"));
        let flags = match ty {
            "tl1" => &*tl1,
            "tl2" => &*tl2,
            _ => "",
        };
        quantize(&plain, &path, &format!("--type {ty} {flags}")).done();
        traced(&path, flags, &ty.to_uppercase(), true);
    }
    let b = folder.path().join("b.gguf");
    recast(&plain, &b, TensorType::I2_S, in_order_b);
    traced(&b, "--i2s-layout b", "I2_S", true);
}
