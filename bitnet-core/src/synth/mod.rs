//! Synthetic models: the right shapes, names, types and a working vocabulary around random weights.
//!
//! Speed, memory and agreement between two engines depend on a model's shape, not on what it learned, so these
//! stand in for models that are too large to carry around. Equal options give equal files on every machine:
//! nothing here uses a function whose last bit differs between platforms.
//!
//! The numbers are cheap on purpose; a 2B model is written about as fast as the disk takes it:
//!
//! - random words: xoshiro256++ (Blackman and Vigna, 2018), seeded through splitmix64, one stream for each tensor;
//! - ternary weights: 16 random bits choose a byte of four weights from a table, so a probability is right to
//!   1/65 536, and every layout of the four within the byte gives the same distribution;
//! - embeddings: 16 random bits choose from a pool of 65 536 values, each of them twelve uniform numbers added
//!   up, which is close to a Gaussian of variance 1 and never beyond 6.

mod fill;
mod rng;
mod vocab;

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::str::FromStr;

use crate::gguf::{ArrayBuf, GgufWriter, Target, TensorType, TensorWriter, Value};
use crate::model::MAX_POSITIONS;
use crate::{Error, Result};
use fill::{Pools, Source};
use rng::Rng;
use vocab::Vocab;

/// What kind of model to make up. [`SynthOptions::new`] fills in what a shape leaves open.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// Sizes of the matrices.
    pub shape: SynthShape,
    /// Layers, if not the shape's own number.
    pub n_layer: Option<usize>,
    /// Tokens in the vocabulary, if not the shape's own number; 260 at least.
    pub n_vocab: Option<usize>,
    /// Longest context in tokens; 4096 if not given.
    pub n_ctx: Option<usize>,
    /// `bitnet-b1.58`, `bitnet-25`, `bitnet` or `llama`. Only `llama` has an output matrix of its own, and only
    /// the others have norms within attention and feed-forward.
    pub arch: String,
    /// Equal seeds, equal files.
    pub seed: u64,
    /// How many of the ternary weights are zero, 0 to 1.
    pub zeros: f64,
    /// The type of `token_embd.weight` and `output.weight`.
    pub embd: EmbdType,
}

impl SynthOptions {
    /// A `bitnet-b1.58` model of this shape with F16 embeddings, as many zeros as ones, and seed 1.
    #[must_use]
    pub fn new(shape: SynthShape) -> SynthOptions {
        SynthOptions {
            shape,
            n_layer: None,
            n_vocab: None,
            n_ctx: None,
            arch: "bitnet-b1.58".into(),
            seed: 1,
            zeros: 1.0 / 3.0,
            embd: EmbdType::F16,
        }
    }
}

/// The number format of embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmbdType {
    /// 16-bit floats, as in published models.
    #[default]
    F16,
    /// 32-bit floats.
    F32,
}

/// Sizes that go together, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynthShape {
    /// 2 layers of 256: made and run in no time.
    Tiny,
    /// 4 layers of 512.
    Small,
    /// 8 layers of 1024.
    Mid,
    /// Heads of 96, as in bitnet_b1_58-large.
    Hd96,
    /// Heads of 100 and rows that are not a multiple of 256, as in bitnet_b1_58-3B.
    Hd100,
    /// bitnet_b1_58-large: 0.7 billion weights.
    Large,
    /// BitNet-b1.58-2B-4T: 2.4 billion weights, 1.2 GB.
    B2T4,
}

struct Dims {
    n_embd: usize,
    n_ff: usize,
    n_layer: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
}

impl SynthShape {
    /// Every shape, smallest first.
    pub const ALL: [SynthShape; 7] = {
        use SynthShape::{B2T4, Hd96, Hd100, Large, Mid, Small, Tiny};
        [Tiny, Small, Hd96, Hd100, Mid, Large, B2T4]
    };

    /// The name it is asked for by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SynthShape::Tiny => "tiny",
            SynthShape::Small => "small",
            SynthShape::Mid => "mid",
            SynthShape::Hd96 => "hd96",
            SynthShape::Hd100 => "hd100",
            SynthShape::Large => "large",
            SynthShape::B2T4 => "2b4t",
        }
    }

    fn dims(self) -> Dims {
        let [n_embd, n_ff, n_layer, n_head, n_head_kv, n_vocab] = match self {
            SynthShape::Tiny => [256, 512, 2, 4, 2, 320],
            SynthShape::Small => [512, 1280, 4, 8, 2, 1024],
            SynthShape::Mid => [1024, 2816, 8, 8, 2, 8192],
            SynthShape::Hd96 => [384, 1024, 2, 4, 1, 320],
            SynthShape::Hd100 => [3200, 1280, 1, 32, 32, 320],
            SynthShape::Large => [1536, 4096, 24, 16, 16, 32_002],
            SynthShape::B2T4 => [2560, 6912, 30, 20, 5, 128_256],
        };
        Dims { n_embd, n_ff, n_layer, n_head, n_head_kv, n_vocab }
    }
}

impl fmt::Display for SynthShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SynthShape {
    type Err = Error;

    fn from_str(name: &str) -> Result<SynthShape> {
        SynthShape::ALL.into_iter().find(|shape| shape.name() == name).ok_or_else(|| {
            let names: Vec<&str> = SynthShape::ALL.iter().map(|shape| shape.name()).collect();
            Error::Invalid {
                what: format!("shape {name}"),
                reason: format!("expected one of {}", names.join(", ")),
            }
        })
    }
}

/// Writes a synthetic model, which takes its place at `target` once it is whole.
///
/// `progress` is told the bytes written and the bytes to be written, now and then; when it returns false, this ends
/// with an error of the kind `Interrupted`.
///
/// # Errors
/// If an option is out of range, or the system does not take the file.
pub fn write_synthetic<'a>(
    target: impl Into<Target<'a>>,
    options: &SynthOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let target = target.into();
    let (writer, plan) = declared(options)?;
    let mut go_on = told(target.path, writer.tensor_bytes(), progress);
    writer.write_file(target, |out| fill(out, options, &plan, &mut go_on))
}

/// The same into a file that is open already; `path` names it in error texts.
///
/// # Errors
/// As [`write_synthetic`]; the file then holds what was written so far.
pub fn write_synthetic_to(
    path: &Path,
    file: &File,
    options: &SynthOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let (writer, plan) = declared(options)?;
    let mut go_on = told(path, writer.tensor_bytes(), progress);
    let mut out = writer.write(path, BufWriter::with_capacity(CHUNK, file))?;
    fill(&mut out, options, &plan, &mut go_on)?;
    out.finish().map(drop)
}

/// Tells `progress` of every piece, and makes its refusal an error.
fn told(
    path: &Path,
    total: u64,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> impl FnMut(u64) -> Result<()> {
    move |done| match progress(done, total) {
        true => Ok(()),
        false => {
            Err(Error::Io { path: path.to_owned(), action: "write", source: ErrorKind::Interrupted.into() })
        }
    }
}

/// A writer that knows metadata and tensors, and how the tensors are made.
fn declared(options: &SynthOptions) -> Result<(GgufWriter, Vec<Planned>)> {
    let dims = checked(options)?;
    let plan = plan(options, &dims);
    let mut writer = GgufWriter::new();
    set_metadata(&mut writer, options, &dims)?;
    for tensor in &plan {
        writer.declare(&tensor.name, tensor.ty, &tensor.shape)?;
    }
    Ok((writer, plan))
}

/// The bytes of every tensor; `go_on` is told how many are done.
fn fill<W: Write>(
    out: &mut TensorWriter<W>,
    options: &SynthOptions,
    plan: &[Planned],
    go_on: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let pools = Pools::new(options);
    let (mut chunk, mut done) = (vec![0u8; CHUNK], 0);
    for (i, tensor) in plan.iter().enumerate() {
        // Stream 0 made the vocabulary, stream 1 the pool.
        let mut source = Source::new(&pools, tensor, Rng::new(options.seed, i as u64 + 2));
        let n_bytes = tensor.ty.n_bytes(&tensor.shape).expect("it was declared") as usize;
        for start in (0..n_bytes).step_by(CHUNK) {
            let chunk = &mut chunk[..CHUNK.min(n_bytes - start)];
            source.fill(chunk, n_bytes - start);
            out.chunk(chunk)?;
            done += chunk.len() as u64;
            go_on(done)?;
        }
    }
    Ok(())
}

/// Bytes generated at a time: a multiple of every element's size and of the tail of a ternary tensor.
const CHUNK: usize = 1 << 20;
/// The 256 bytes and the fewest special tokens.
const MIN_VOCAB: usize = 256 + 4;

/// The shape's sizes with the overrides applied, all of them in range.
fn checked(options: &SynthOptions) -> Result<Dims> {
    let mut dims = options.shape.dims();
    dims.n_layer = in_range("number of layers", options.n_layer, dims.n_layer, 1, 1024)?;
    dims.n_vocab = in_range("size of the vocabulary", options.n_vocab, dims.n_vocab, MIN_VOCAB, 1 << 20)?;
    if !["bitnet-b1.58", "bitnet-25", "bitnet", "llama"].contains(&options.arch.as_str()) {
        return Err(Error::Invalid {
            what: format!("architecture {}", options.arch),
            reason: "expected bitnet-b1.58, bitnet-25, bitnet or llama".into(),
        });
    }
    if !(0.0..=1.0).contains(&options.zeros) {
        let what = format!("fraction of zeros {}", options.zeros);
        return Err(Error::Invalid { what, reason: "expected 0 to 1".into() });
    }
    Ok(dims)
}

fn in_range(what: &str, given: Option<usize>, default: usize, min: usize, max: usize) -> Result<usize> {
    match given {
        Some(n) if !(min..=max).contains(&n) => {
            Err(Error::Invalid { what: format!("{what} {n}"), reason: format!("expected {min} to {max}") })
        }
        Some(n) => Ok(n),
        None => Ok(default),
    }
}

fn set_metadata(writer: &mut GgufWriter, options: &SynthOptions, dims: &Dims) -> Result<()> {
    let arch = &options.arch;
    let n_ctx = in_range("context length", options.n_ctx, 4096, 1, MAX_POSITIONS)?;
    let vocab = Vocab::new(dims.n_vocab, &mut Rng::new(options.seed, 0));
    let name = format!("synthetic-{}-{}", options.shape, options.seed);

    writer.set("general.architecture", Value::Str(arch.as_bytes()))?;
    writer.set("general.name", Value::Str(name.as_bytes()))?;
    writer.set("general.file_type", Value::U32(TensorType::I2_S.file_type()))?;
    writer.set("general.quantization_version", Value::U32(2))?;
    for (key, count) in [
        ("vocab_size", dims.n_vocab),
        ("context_length", n_ctx),
        ("embedding_length", dims.n_embd),
        ("block_count", dims.n_layer),
        ("feed_forward_length", dims.n_ff),
        ("rope.dimension_count", dims.n_embd / dims.n_head),
        ("attention.head_count", dims.n_head),
        ("attention.head_count_kv", dims.n_head_kv),
    ] {
        writer.set(&format!("{arch}.{key}"), Value::U32(count as u32))?;
    }
    writer.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5))?;
    writer.set(&format!("{arch}.rope.freq_base"), Value::F32(500_000.0))?;

    writer.set("tokenizer.ggml.model", Value::Str(b"gpt2"))?;
    writer.set("tokenizer.ggml.pre", Value::Str(b"llama-bpe"))?;
    writer.set("tokenizer.ggml.tokens", ArrayBuf::strings(&vocab.tokens).value())?;
    writer.set("tokenizer.ggml.token_type", ArrayBuf::i32s(vocab.types()).value())?;
    writer.set("tokenizer.ggml.merges", ArrayBuf::strings(&vocab.merges).value())?;
    let bos = vocab.first_special as u32;
    writer.set("tokenizer.ggml.bos_token_id", Value::U32(bos))?;
    writer.set("tokenizer.ggml.eos_token_id", Value::U32(bos + 1))?;
    writer.set("tokenizer.ggml.padding_token_id", Value::U32(bos + 1))?;
    writer.set("tokenizer.ggml.add_bos_token", Value::Bool(true))
}

/// A tensor to be made up.
struct Planned {
    name: String,
    ty: TensorType,
    /// `[rows, cols]`, or `[n]`.
    shape: Vec<usize>,
}

/// Every tensor of the model, in the order of published files.
fn plan(options: &SynthOptions, dims: &Dims) -> Vec<Planned> {
    let &Dims { n_embd, n_ff, n_layer, n_head, n_head_kv, n_vocab } = dims;
    let llama = options.arch == "llama";
    let kv_dim = n_embd / n_head * n_head_kv;
    let embd = match options.embd {
        EmbdType::F16 => TensorType::F16,
        EmbdType::F32 => TensorType::F32,
    };
    let tensor = |name: &str, ty, shape: &[usize]| Planned {
        name: format!("{name}.weight"),
        ty,
        shape: shape.to_vec(),
    };
    let mut plan = vec![tensor("token_embd", embd, &[n_vocab, n_embd])];
    if llama {
        plan.push(tensor("output", embd, &[n_vocab, n_embd]));
    }
    plan.push(tensor("output_norm", TensorType::F32, &[n_embd]));
    for layer in 0..n_layer {
        let norm = |name: &str, n| tensor(&format!("blk.{layer}.{name}"), TensorType::F32, &[n]);
        let ternary =
            |name: &str, rows, cols| tensor(&format!("blk.{layer}.{name}"), TensorType::I2_S, &[rows, cols]);
        plan.push(norm("attn_norm", n_embd));
        plan.push(ternary("attn_q", n_embd, n_embd));
        plan.push(ternary("attn_k", kv_dim, n_embd));
        plan.push(ternary("attn_v", kv_dim, n_embd));
        plan.extend((!llama).then(|| norm("attn_sub_norm", n_embd)));
        plan.push(ternary("attn_output", n_embd, n_embd));
        plan.push(norm("ffn_norm", n_embd));
        plan.push(ternary("ffn_gate", n_ff, n_embd));
        plan.push(ternary("ffn_up", n_ff, n_embd));
        plan.extend((!llama).then(|| norm("ffn_sub_norm", n_ff)));
        plan.push(ternary("ffn_down", n_embd, n_ff));
    }
    plan
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::fill::TAIL;
    use super::*;
    use crate::gguf::{Access, Gguf};

    fn written(options: &SynthOptions) -> (Gguf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synthetic.gguf");
        let mut last = (0, 0);
        write_synthetic(&path, options, &mut |done, total| {
            last = (done, total);
            true
        })
        .unwrap();
        assert!(last.0 == last.1 && last.0 > 0, "progress ended at {last:?}");
        let gguf = Gguf::open(&path, Access::Read).unwrap();
        assert_eq!(gguf.tensors().iter().map(|t| t.n_bytes).sum::<u64>(), last.1);
        (gguf, std::fs::read(&path).unwrap())
    }

    /// Fractions of the codes 0, 1, 2, 3 over all ternary tensors.
    fn codes(gguf: &Gguf) -> [f64; 4] {
        let mut counts = [0u64; 4];
        for info in gguf.tensors().iter().filter(|t| t.ty == TensorType::I2_S) {
            let bytes = gguf.tensor(&info.name).unwrap().bytes;
            for byte in &bytes[..bytes.len() - TAIL] {
                (0..4).for_each(|i| counts[usize::from(byte >> (2 * i) & 3)] += 1);
            }
        }
        let n: u64 = counts.iter().sum();
        counts.map(|count| count as f64 / n as f64)
    }

    #[test]
    fn a_model_has_the_tensors_of_its_architecture() {
        let (bitnet, _) = written(&SynthOptions::new(SynthShape::Tiny));
        assert_eq!(bitnet.tensors().len(), 2 + 2 * 11);
        assert_eq!(bitnet.tensor("token_embd.weight").unwrap().info.shape, [320, 256]);
        assert_eq!(bitnet.tensor("blk.1.ffn_down.weight").unwrap().info.shape, [256, 512]);
        assert_eq!(bitnet.tensor("blk.1.attn_k.weight").unwrap().info.shape, [128, 256]);
        assert_eq!(bitnet.tensor("blk.0.ffn_sub_norm.weight").unwrap().info.shape, [512]);
        assert!(bitnet.tensor("output.weight").is_none());
        assert_eq!(bitnet.metadata().u64("bitnet-b1.58.rope.dimension_count").unwrap(), Some(64));

        let mut options = SynthOptions::new(SynthShape::Hd96);
        options.arch = "llama".into();
        options.n_layer = Some(1);
        options.embd = EmbdType::F32;
        let (llama, _) = written(&options);
        assert_eq!(llama.tensors().len(), 3 + 9);
        assert_eq!(llama.tensor("output.weight").unwrap().info.ty, TensorType::F32);
        assert!(llama.tensor("blk.0.attn_sub_norm.weight").is_none());
        assert_eq!(llama.metadata().u64("llama.rope.dimension_count").unwrap(), Some(96));
    }

    #[test]
    fn equal_seeds_give_equal_files() {
        let mut options = SynthOptions::new(SynthShape::Tiny);
        let (_, first) = written(&options);
        assert_eq!(written(&options).1, first);
        options.seed = 2;
        assert_ne!(written(&options).1, first);
    }

    #[test]
    fn weights_have_the_distribution_asked_for() {
        for zeros in [0.0, 1.0 / 3.0, 0.9, 1.0] {
            let mut options = SynthOptions::new(SynthShape::Small);
            options.zeros = zeros;
            options.n_layer = Some(1);
            let (gguf, _) = written(&options);
            let [minus, zero, plus, invalid] = codes(&gguf);
            assert_eq!(invalid, 0.0);
            assert!((zero - zeros).abs() < 0.002 && (minus - plus).abs() < 0.004, "{:?}", codes(&gguf));
            let q = gguf.tensor("blk.0.attn_q.weight").unwrap().bytes;
            let (scale, filler) = q[q.len() - TAIL..].split_at(4);
            let scale = f32::from_le_bytes(scale.try_into().unwrap()) * 512f32.sqrt();
            assert!((0.8..1.2).contains(&scale) && filler.iter().all(|&b| b == 0), "{scale}");

            let embd = gguf.tensor("token_embd.weight").unwrap().bytes;
            let values: Vec<f64> =
                embd.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
            assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let says = |change: fn(&mut SynthOptions), text: &str| {
            let mut options = SynthOptions::new(SynthShape::Tiny);
            change(&mut options);
            let error = write_synthetic(&dir.path().join("m.gguf"), &options, &mut |_, _| true).unwrap_err();
            assert!(error.is_misuse());
            assert_eq!(error.to_string(), text);
        };
        says(|o| o.n_layer = Some(0), "number of layers 0: expected 1 to 1024");
        says(|o| o.n_vocab = Some(259), "size of the vocabulary 259: expected 260 to 1048576");
        says(|o| o.n_ctx = Some(0), "context length 0: expected 1 to 1048576");
        says(|o| o.zeros = f64::NAN, "fraction of zeros NaN: expected 0 to 1");
        says(
            |o| o.arch = "gpt2".into(),
            "architecture gpt2: expected bitnet-b1.58, bitnet-25, bitnet or llama",
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        assert_eq!("2b4t".parse::<SynthShape>().unwrap(), SynthShape::B2T4);
        let error = "3b".parse::<SynthShape>().unwrap_err().to_string();
        assert_eq!(error, "shape 3b: expected one of tiny, small, hd96, hd100, mid, large, 2b4t");
    }
}
