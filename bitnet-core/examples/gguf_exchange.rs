//! Our half of `scripts/check_gguf_py.sh`, which holds this crate's files and numbers against another implementation.
//!
//! - `gguf_exchange write FILE`: a file with one seeded tensor in every format this crate writes and others read, and
//!   with metadata of every type
//! - `gguf_exchange dump FILE DIR`: the values of every tensor of `FILE` as this crate reads them, `DIR/NAME.f32`, and
//!   on stdout one line for each metadata key

use std::error::Error;
use std::fs;
use std::path::Path;

use bitnet_core::Access;
use bitnet_core::gguf::{ArrayBuf, Gguf, GgufWriter, Tensor, TensorType, Value};
use bitnet_core::quant::dense::{DenseType, dequantize_row, quantize_row};
use bitnet_core::quant::tq;

const ROWS: usize = 5;
const COLS: usize = 768;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", file] => write(Path::new(file)),
        ["dump", file, dir] => dump(Path::new(file), Path::new(dir)),
        _ => Err("usage: gguf_exchange write FILE | dump FILE DIR".into()),
    }
}

fn write(file: &Path) -> Result<(), Box<dyn Error>> {
    let mut state = 158u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    // Magnitudes over several powers of two, with a row of zeros and a value far from the rest.
    let mut values: Vec<f32> =
        (0..ROWS * COLS).map(|_| (unit() - 0.5) * (unit() * 12.0 - 8.0).exp2()).collect();
    values[COLS..2 * COLS].fill(0.0);
    values[2 * COLS + 5] = -40.0;
    let codes: Vec<i8> = (0..ROWS * COLS).map(|_| (unit() * 3.0) as i8 - 1).collect();
    let scale = 0.007_812_5 + 1.0 / 4096.0; // a half-precision number
    let ternary: Vec<f32> = codes.iter().map(|code| f32::from(*code) * scale).collect();

    let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let scales = vec![scale; ROWS * COLS / tq::BLOCK_LEN];
    let mut tensors = vec![
        ("values".to_owned(), TensorType::F32, f32s(&values)),
        ("ternary".to_owned(), TensorType::F32, f32s(&ternary)),
        ("TQ1_0".to_owned(), TensorType::TQ1_0, tq::pack_tq1_0(&codes, ROWS, COLS, &scales)),
        ("TQ2_0".to_owned(), TensorType::TQ2_0, tq::pack_tq2_0(&codes, ROWS, COLS, &scales)),
    ];
    for ty in DenseType::ALL.into_iter().filter(|ty| ty.can_quantize() && *ty != DenseType::F32) {
        let mut bytes = vec![0; ty.row_bytes(values.len()).ok_or("whole blocks")?];
        quantize_row(ty, &values, &mut bytes).map_err(|e| e.to_string())?;
        tensors.push((ty.name().to_owned(), ty.tensor_type(), bytes));
    }

    let mut writer = GgufWriter::new();
    writer.set("general.architecture", Value::Str("bitnet-b1.58, été".as_bytes()))?;
    writer.set("a.u8", Value::U8(250))?;
    writer.set("a.i8", Value::I8(-5))?;
    writer.set("a.u16", Value::U16(65_000))?;
    writer.set("a.i16", Value::I16(-32_000))?;
    writer.set("a.u32", Value::U32(4_000_000_000))?;
    writer.set("a.i32", Value::I32(-2_000_000_000))?;
    writer.set("a.u64", Value::U64(u64::MAX))?;
    writer.set("a.i64", Value::I64(i64::MIN))?;
    writer.set("a.f32", Value::F32(0.1))?;
    writer.set("a.f64", Value::F64(0.1))?;
    writer.set("a.bool", Value::Bool(true))?;
    writer.set("a.texts", ArrayBuf::strings(["", "a b", "\u{120}é"]).value())?;
    writer.set("a.f32s", ArrayBuf::f32s([1.5, -0.0, 3e-39]).value())?;
    writer.set("a.i32s", ArrayBuf::i32s([-1, 0, 7]).value())?;
    for (name, ty, _) in &tensors {
        writer.declare(name, *ty, &[ROWS, COLS])?;
    }
    writer.write_file(file, |out| tensors.iter().try_for_each(|(name, _, bytes)| out.tensor(name, bytes)))?;
    Ok(())
}

fn dump(file: &Path, dir: &Path) -> Result<(), Box<dyn Error>> {
    let gguf = Gguf::open(file, Access::Map)?;
    let mut lines = String::new();
    for (key, value) in gguf.metadata().iter() {
        lines += &format!("{key}\t{}\n", shown(value));
    }
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).ok_or("a tensor without bytes")?;
        let values = values_of(&tensor)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(dir.join(format!("{}.f32", info.name)), bytes)?;
    }
    std::io::Write::write_all(&mut std::io::stdout(), lines.as_bytes())?;
    Ok(())
}

/// A value as the script spells it too: type and bits, so that nothing depends on how numbers are printed.
fn shown(value: Value<'_>) -> String {
    match value {
        Value::Str(bytes) => format!("str:{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        Value::Bool(v) => format!("bool:{}", u8::from(v)),
        Value::F32(v) => format!("f32:{}", v.to_bits()),
        Value::F64(v) => format!("f64:{}", v.to_bits()),
        Value::Array(array) => format!("[{}]", array.iter().map(shown).collect::<Vec<_>>().join(",")),
        integer => format!("int:{}", integer.as_integer().unwrap_or_default()),
    }
}

fn values_of(tensor: &Tensor<'_>) -> Result<Vec<f32>, Box<dyn Error>> {
    let info = tensor.info;
    let &[rows, cols] = info.shape.as_slice() else { return Err("expected matrices".into()) };
    let mut values = vec![0.0; rows * cols];
    if let Some(ty) = DenseType::of(info.ty) {
        dequantize_row(ty, tensor.bytes, &mut values);
        return Ok(values);
    }
    let unpack = match info.ty {
        TensorType::TQ1_0 => tq::unpack_tq1_0,
        TensorType::TQ2_0 => tq::unpack_tq2_0,
        other => return Err(format!("{}: {} is not compared here", info.name, other.name()).into()),
    };
    let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows * cols / tq::BLOCK_LEN]);
    unpack(tensor.bytes, rows, cols, 0..rows, &mut codes, &mut scales)?;
    for (i, (value, code)) in values.iter_mut().zip(&codes).enumerate() {
        *value = f32::from(*code) * scales[i / tq::BLOCK_LEN];
    }
    Ok(values)
}
