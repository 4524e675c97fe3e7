//! Packs a model's trained weights: every F32 matrix of a layer to I2_S by the absmean rule, the embedding to F16.
//!
//! `pack_ternary IN.gguf OUT.gguf`. The embedded demo model is made this way from what training exports.

use std::error::Error;
use std::path::Path;

use bitnet_core::Access;
use bitnet_core::gguf::{Gguf, GgufWriter, Tensor, TensorType};
use bitnet_core::quant::absmean::MeanAbs;
use bitnet_core::quant::dense::{DenseType, quantize_row};
use bitnet_core::quant::i2s;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = args.as_slice() else { return Err("usage: pack_ternary IN.gguf OUT.gguf".into()) };
    let input = Gguf::open(Path::new(from), Access::Map)?;
    let mut writer = GgufWriter::new();
    for (key, value) in input.metadata().iter() {
        writer.set(key, value)?;
    }
    let mut packed = Vec::new();
    for info in input.tensors() {
        let tensor = input.tensor(&info.name).ok_or("a tensor without bytes")?;
        let (ty, bytes) = pack(&tensor)?;
        writer.declare(&info.name, ty, &info.shape)?;
        packed.push((info.name.as_str(), bytes));
    }
    writer.write_file(Path::new(to), |out| {
        packed.iter().try_for_each(|(name, bytes)| out.tensor(name, bytes))
    })?;
    Ok(())
}

fn pack(tensor: &Tensor<'_>) -> Result<(TensorType, Vec<u8>), Box<dyn Error>> {
    let info = tensor.info;
    if info.ty != TensorType::F32 {
        return Err(format!("{}: expected F32, found {}", info.name, info.ty).into());
    }
    if info.shape.len() < 2 {
        return Ok((TensorType::F32, tensor.bytes.to_vec()));
    }
    let weights: Vec<f32> = tensor.bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    if !info.name.starts_with("blk.") {
        let mut bytes = vec![0; 2 * weights.len()];
        quantize_row(DenseType::F16, &weights, &mut bytes).map_err(|e| format!("{}: {e}", info.name))?;
        return Ok((TensorType::F16, bytes));
    }
    let mut mean = MeanAbs::default();
    mean.add(&weights);
    let rule = mean.finish()?;
    let mut codes = vec![0; weights.len()];
    rule.ternarize(&weights, &mut codes);
    let mut bytes = i2s::pack(&codes);
    bytes.extend(i2s::tail(rule.scale()));
    Ok((TensorType::I2_S, bytes))
}
