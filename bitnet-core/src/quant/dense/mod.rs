//! Dense formats: rows of real numbers, as embeddings, output heads and norms are stored.
//!
//! A row is a run of blocks; a block is `block_len` values in `block_bytes` bytes, little-endian throughout.
//! Here live the list of formats, the one entry for reading a row ([`dequantize_row`]) and the one for
//! writing it ([`quantize_row`]). The blocks themselves are drawn in `blocks32` (32 weights) and
//! `superblocks` (256). Names, numbers and layouts are those of ggml.
//!
//! Every product in these formats (a half-precision scale times at most 13 bits of integers) is exact in
//! `f32`, so a value is rounded at most once, where a minimum is added: fused or not, the bits are the same.

mod blocks32;
mod superblocks;

use std::fmt;

use half::{bf16, f16};

use crate::gguf::TensorType;

/// A dense number format.
#[allow(non_camel_case_types, reason = "the formats' own names, as files and people spell them")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 4 bits, a scale per 32.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32.
    Q4_1,
    /// 5 bits, a scale per 32.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32.
    Q5_1,
    /// 4 bits into a table of sixteen values, a scale per 32.
    IQ4_NL,
    /// 2 bits, a 4-bit scale and minimum per 16.
    Q2_K,
    /// 3 bits, a 6-bit scale per 16.
    Q3_K,
    /// 4 bits, a 6-bit scale and minimum per 32.
    Q4_K,
    /// 5 bits, a 6-bit scale and minimum per 32.
    Q5_K,
    /// 6 bits, an 8-bit scale per 16.
    Q6_K,
}

impl DenseType {
    /// Every dense format, in the order of their ids in a file.
    pub const ALL: [DenseType; 14] = [
        DenseType::F32,
        DenseType::F16,
        DenseType::Q4_0,
        DenseType::Q4_1,
        DenseType::Q5_0,
        DenseType::Q5_1,
        DenseType::Q8_0,
        DenseType::Q2_K,
        DenseType::Q3_K,
        DenseType::Q4_K,
        DenseType::Q5_K,
        DenseType::Q6_K,
        DenseType::IQ4_NL,
        DenseType::BF16,
    ];

    /// The format of tensors of this type, if it is a dense one.
    #[must_use]
    pub fn of(ty: TensorType) -> Option<DenseType> {
        DenseType::ALL.into_iter().find(|dense| dense.tensor_type() == ty)
    }

    /// The type of tensors in this format.
    #[must_use]
    pub fn tensor_type(self) -> TensorType {
        self.facts().0
    }

    /// The format's name, as in `Q6_K`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.tensor_type().name()
    }

    /// Values in a block.
    #[must_use]
    pub fn block_len(self) -> usize {
        self.facts().1
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.facts().2
    }

    /// Bytes of a row of `cols` values; `None` if `cols` is not a whole number of blocks, or beyond counting.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_len()) {
            (cols / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Whether [`quantize_row`] writes this format.
    #[must_use]
    pub fn can_quantize(self) -> bool {
        matches!(self, DenseType::F32 | DenseType::F16 | DenseType::BF16 | DenseType::Q8_0 | DenseType::Q6_K)
    }

    /// Tensor type, values per block, bytes per block.
    fn facts(self) -> (TensorType, usize, usize) {
        match self {
            DenseType::F32 => (TensorType::F32, 1, 4),
            DenseType::F16 => (TensorType::F16, 1, 2),
            DenseType::Q4_0 => (TensorType::Q4_0, 32, 18),
            DenseType::Q4_1 => (TensorType::Q4_1, 32, 20),
            DenseType::Q5_0 => (TensorType::Q5_0, 32, 22),
            DenseType::Q5_1 => (TensorType::Q5_1, 32, 24),
            DenseType::Q8_0 => (TensorType::Q8_0, 32, 34),
            DenseType::Q2_K => (TensorType::Q2_K, 256, 84),
            DenseType::Q3_K => (TensorType::Q3_K, 256, 110),
            DenseType::Q4_K => (TensorType::Q4_K, 256, 144),
            DenseType::Q5_K => (TensorType::Q5_K, 256, 176),
            DenseType::Q6_K => (TensorType::Q6_K, 256, 210),
            DenseType::IQ4_NL => (TensorType::IQ4_NL, 32, 18),
            DenseType::BF16 => (TensorType::BF16, 1, 2),
        }
    }
}

impl fmt::Display for DenseType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads one row (or several: rows are contiguous) of format `ty` as `f32`.
///
/// - `bytes`: `ty.row_bytes(out.len())` of them
/// - `out`: `[cols]`, overwritten
///
/// # Panics
/// If `out` is not a whole number of blocks, or `bytes` does not hold exactly those.
pub fn dequantize_row(ty: DenseType, bytes: &[u8], out: &mut [f32]) {
    assert_row(ty, bytes.len(), out.len());
    match ty {
        DenseType::F32 => plain(bytes, out, f32::from_le_bytes),
        DenseType::F16 => plain(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DenseType::BF16 => plain(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DenseType::Q8_0 => blocks(bytes, out, blocks32::q8_0),
        DenseType::Q4_0 => blocks(bytes, out, blocks32::q4_0),
        DenseType::Q4_1 => blocks(bytes, out, blocks32::q4_1),
        DenseType::Q5_0 => blocks(bytes, out, blocks32::q5_0),
        DenseType::Q5_1 => blocks(bytes, out, blocks32::q5_1),
        DenseType::IQ4_NL => blocks(bytes, out, blocks32::iq4_nl),
        DenseType::Q2_K => blocks(bytes, out, superblocks::q2_k),
        DenseType::Q3_K => blocks(bytes, out, superblocks::q3_k),
        DenseType::Q4_K => blocks(bytes, out, superblocks::q4_k),
        DenseType::Q5_K => blocks(bytes, out, superblocks::q5_k),
        DenseType::Q6_K => blocks(bytes, out, superblocks::q6_k),
    }
}

/// A value that a format cannot hold: not finite, or beyond its largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutOfRange {
    /// Where in the row.
    pub index: usize,
    /// The value.
    pub value: f32,
    /// The format that cannot hold it.
    pub ty: DenseType,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "column {}: expected a finite value within the range of {}, found {}",
            self.index, self.ty, self.value
        )
    }
}

impl std::error::Error for OutOfRange {}

/// Writes one row (or several) in format `ty`, rounding to nearest; ties go to even in F16 and BF16, away
/// from zero in Q8_0. Q6_K chooses, for each 16 values, the scale with the smallest squared error among those
/// tried.
///
/// - `x`: `[cols]`
/// - `bytes`: `ty.row_bytes(x.len())` of them, overwritten
///
/// # Errors
/// The first value of `x` that the format cannot hold; `bytes` is then half written.
///
/// # Panics
/// If `ty` is none of those [`DenseType::can_quantize`] names, or a length disagrees as in
/// [`dequantize_row`].
pub fn quantize_row(ty: DenseType, x: &[f32], bytes: &mut [u8]) -> Result<(), OutOfRange> {
    assert_row(ty, bytes.len(), x.len());
    let fits = |v: f32| match ty {
        DenseType::F16 => f16::from_f32(v).is_finite(),
        DenseType::BF16 => bf16::from_f32(v).is_finite(),
        DenseType::Q8_0 => v.abs() <= 127.0 * f16::MAX.to_f32(),
        DenseType::Q6_K => v.abs() <= 32.0 * 127.0 * f16::MAX.to_f32(),
        _ => v.is_finite(),
    };
    if let Some(index) = x.iter().position(|v| !fits(*v)) {
        return Err(OutOfRange { index, value: x[index], ty });
    }
    match ty {
        DenseType::F32 => bytes.as_chunks_mut().0.iter_mut().zip(x).for_each(|(b, v)| *b = v.to_le_bytes()),
        DenseType::F16 => {
            bytes.as_chunks_mut().0.iter_mut().zip(x).for_each(|(b, v)| *b = f16::from_f32(*v).to_le_bytes());
        }
        DenseType::BF16 => {
            bytes
                .as_chunks_mut()
                .0
                .iter_mut()
                .zip(x)
                .for_each(|(b, v)| *b = bf16::from_f32(*v).to_le_bytes());
        }
        DenseType::Q8_0 => {
            for (block, x) in bytes.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
                blocks32::quantize_q8_0(x, block);
            }
        }
        DenseType::Q6_K => {
            for (block, x) in bytes.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
                superblocks::quantize_q6_k(x, block);
            }
        }
        other => panic!("quantize_row: {other} is read, never written"),
    }
    Ok(())
}

fn assert_row(ty: DenseType, n_bytes: usize, n_values: usize) {
    assert_eq!(Some(n_bytes), ty.row_bytes(n_values), "{ty}: {n_bytes} bytes for {n_values} values");
}

/// One value per `N` bytes.
fn plain<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = value(*b);
    }
}

/// `LEN` values per block of `BYTES` bytes.
fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    read: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (out, block) in out.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
        read(block, out);
    }
}

/// The half-precision number at byte `at` of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ty: DenseType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; bytes.len() / ty.block_bytes() * ty.block_len()];
        dequantize_row(ty, bytes, &mut out);
        out
    }

    #[test]
    fn plain_types_hold_one_and_a_half() {
        for (ty, bytes) in [
            (DenseType::F32, &[0x00, 0x00, 0xc0, 0x3f][..]),
            (DenseType::F16, &[0x00, 0x3e][..]),
            (DenseType::BF16, &[0xc0, 0x3f][..]),
        ] {
            assert_eq!(read(ty, bytes), [1.5]);
            let mut written = vec![0; bytes.len()];
            quantize_row(ty, &[1.5], &mut written).unwrap();
            assert_eq!(written, bytes, "{ty}");
        }
    }

    #[test]
    fn plain_types_round_ties_to_even() {
        let mut out = [0u8; 4];
        // Half way between two bf16 neighbours: 1 + 2^-8 goes down to 1, 1 + 3 * 2^-8 up to 1 + 2^-6.
        quantize_row(DenseType::BF16, &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0], &mut out).unwrap();
        assert_eq!(out, [0x80, 0x3f, 0x82, 0x3f]);
        // The same for f16 at 2^-11.
        quantize_row(DenseType::F16, &[1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0], &mut out).unwrap();
        assert_eq!(out, [0x00, 0x3c, 0x02, 0x3c]);
    }

    /// Every block format against the `gguf` Python package (0.19, NumPy), an implementation written by
    /// others: byte i of the block is 37i + 11*(i/7) + 5, the half-precision fields are 0x2a66 and 0x2d11;
    /// compared are the sum of (i + 1) * value i, and a few values.
    #[test]
    fn agrees_with_an_independent_reader() {
        let cases: [(DenseType, &[usize], f64, [f32; 4]); 11] = [
            (DenseType::Q4_0, &[0], -24.24407958984375, [0.34991455, -0.19995117, -0.19995117, 0.049987793]),
            (DenseType::Q4_1, &[0, 2], 247.547607421875, [0.52905273, 0.7789917, 0.52905273, 0.7290039]),
            (DenseType::Q5_0, &[0], 53.386962890625, [0.14996338, 0.14996338, 0.6998291, 0.099975586]),
            (DenseType::Q5_1, &[0, 2], 474.4921875, [1.2788696, 0.7290039, 1.0289307, 0.42907715]),
            (DenseType::Q8_0, &[0], -235.8424072265625, [3.9490356, 5.798584, -3.7490845, -0.49987793]),
            (DenseType::Q2_K, &[80, 82], -3387.2241821289062, [0.7498169, 0.0, 0.96221924, 0.5831299]),
            (DenseType::Q3_K, &[108], -5225.323974609375, [0.99975586, -1.9995117, -1.3996582, -1.199707]),
            (DenseType::Q4_K, &[0, 2], 316674.21502685547, [9.313538, -4.4331055, 29.84253, -0.45043945]),
            (DenseType::Q5_K, &[0, 2], 739982.5430297852, [24.309875, 4.3147583, 10.047363, -1.050293]),
            (DenseType::Q6_K, &[208], 3678.3017578125, [-18.895386, 19.795166, 39.590332, 42.289673]),
            (DenseType::IQ4_NL, &[0], -300.57659912109375, [5.6486206, -2.4494019, -2.4494019, 0.6498413]),
        ];
        for (ty, halves, sum, few) in cases {
            let mut block: Vec<u8> =
                (0..ty.block_bytes()).map(|i| (i * 37 + 11 * (i / 7) + 5) as u8).collect();
            for (at, half) in halves.iter().zip([0x2a66u16, 0x2d11]) {
                block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
            let out = read(ty, &block);
            let n = out.len();
            assert_eq!([out[0], out[1], out[n / 2], out[n - 1]], few, "{ty}");
            let weighted: f64 = out.iter().enumerate().map(|(i, v)| (i + 1) as f64 * f64::from(*v)).sum();
            assert_eq!(weighted, sum, "{ty}");
        }
    }

    #[test]
    fn rows_are_whole_blocks_or_nothing() {
        assert_eq!(DenseType::Q6_K.row_bytes(2560), Some(2100));
        assert_eq!(DenseType::Q8_0.row_bytes(3200), Some(3400));
        assert_eq!(DenseType::Q6_K.row_bytes(3200), None);
        assert_eq!(DenseType::F32.row_bytes(usize::MAX), None);
        assert_eq!(DenseType::Q4_0.row_bytes(0), Some(0));
    }

    #[test]
    fn tensor_types_lead_back_to_their_formats_and_agree_on_sizes() {
        for ty in DenseType::ALL {
            assert_eq!(DenseType::of(ty.tensor_type()), Some(ty));
            let cols = 2 * ty.block_len();
            let row_bytes = ty.row_bytes(cols).map(|n| n as u64);
            assert_eq!(row_bytes, ty.tensor_type().n_bytes(&[1, cols]), "{ty}");
        }
        let id = |ty: DenseType| ty.tensor_type().id();
        assert!(DenseType::ALL.windows(2).all(|pair| id(pair[0]) < id(pair[1])));
        assert_eq!(DenseType::of(TensorType::I2_S), None);
    }

    #[test]
    fn writing_refuses_what_a_format_cannot_hold() {
        for (ty, value) in [
            (DenseType::F32, f32::NAN),
            (DenseType::F16, 65520.0),
            (DenseType::BF16, f32::MAX),
            (DenseType::Q8_0, f32::NEG_INFINITY),
            (DenseType::Q8_0, 8.4e6),
            (DenseType::Q6_K, f32::INFINITY),
        ] {
            let mut x = vec![1.0; ty.block_len().max(2)];
            x[1] = value;
            let mut bytes = vec![0; ty.row_bytes(x.len()).unwrap()];
            let error = quantize_row(ty, &x, &mut bytes).unwrap_err();
            assert_eq!((error.index, error.ty), (1, ty));
            assert!(error.to_string().starts_with("column 1: expected a finite value"), "{error}");
        }
        let mut out = [0u8; 2];
        quantize_row(DenseType::F16, &[65519.0], &mut out).unwrap();
        assert_eq!(out, [0xff, 0x7b]);
    }
}
