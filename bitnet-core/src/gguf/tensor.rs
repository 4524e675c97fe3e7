//! Tensor types, their names, numbers and sizes, and the directory entry of a tensor.
//!
//! Three families of programs write these files (llama.cpp, bitnet.cpp, ik_llama.cpp) and share one number space.
//! They agree except on 39; see [`Family`]. Bits per weight cannot express a size here: some types carry a scale
//! after the last weight, some at the start of each row.

use std::ops::Range;

/// A tensor of an open model: its directory entry and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name, type and shape.
    pub info: &'a TensorInfo,
    /// Exactly its bytes, `info.n_bytes` of them, starting at a multiple of the file's alignment.
    pub bytes: &'a [u8],
}

/// One entry of the tensor directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, as in the file: `blk.0.attn_q.weight`.
    pub name: String,
    /// Its number format.
    pub ty: TensorType,
    /// Its dimensions, outermost first: `[rows, cols]` for a matrix, `[n]` for a vector.
    pub shape: Vec<usize>,
    /// Which of the model's files holds it, from 0.
    pub shard: usize,
    /// Where its bytes begin, from the start of that file.
    pub offset: u64,
    /// How many bytes it has.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// How many weights it has.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        n_elements(&self.shape).unwrap_or(0)
    }

    /// Rows and columns, if it is a matrix. A file may write more dimensions, of 1 each, which come first here.
    #[must_use]
    pub fn matrix(&self) -> Option<[usize; 2]> {
        let (ones, matrix) = self.shape.split_last_chunk()?;
        ones.iter().all(|&n| n == 1).then_some(*matrix)
    }

    pub(super) fn byte_range(&self) -> Option<Range<usize>> {
        let end = usize::try_from(self.offset.checked_add(self.n_bytes)?).ok()?;
        Some(usize::try_from(self.offset).ok()?..end)
    }
}

/// Whose file it is, as far as tensor types are concerned: type 39 is TL2 in bitnet.cpp and MXFP4 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    BitNet,
    Other,
}

/// How many bytes a tensor takes. `k` is the length of a row, `n` the number of all weights.
#[derive(Clone, Copy)]
enum Size {
    /// Blocks of so many weights in so many bytes; a row is whole blocks.
    Blocks(u64, u64),
    /// As `Blocks`, after so many bytes at the start of each row.
    RowHeader(u64, u64, u64),
    /// `n/4`, and 32 bytes that begin with the scale; rows are multiples of so many weights.
    Quarter(u64),
    /// Triples of weights in five bits, then 32 bytes that begin with the scale.
    Tl2,
    /// Not to be had from its number; why, in words that follow the name.
    Unknown(&'static str),
}

/// Types that hold activations while a model runs.
const ACTIVATIONS: &str = "is for activations and does not belong in a file";
/// Types that their own program reads no more.
const WITHDRAWN: &str = "has been withdrawn by the program that wrote it";
/// Types that are weights elsewhere.
const ELSEWHERE: &str = "is not one this program reads";

/// One line for each type, so that number, name and size cannot disagree.
macro_rules! tensor_types {
    ($($variant:ident $id:literal $name:literal $size:expr, $doc:literal;)*) => {
        /// The number format of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(non_camel_case_types, reason = "types are spelled as everywhere else in this field")]
        #[non_exhaustive]
        pub enum TensorType {
            $(#[doc = $doc] $variant,)*
        }

        impl TensorType {
            /// Every type.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$variant),*];

            /// Its name, as other programs print it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(TensorType::$variant => $name,)* }
            }

            /// Its number in the file. TL2 and MXFP4 share one.
            #[must_use]
            pub fn id(self) -> u32 {
                match self { $(TensorType::$variant => $id,)* }
            }

            fn size(self) -> Size {
                match self { $(TensorType::$variant => $size,)* }
            }
        }
    };
}

tensor_types! {
    F32         0 "F32"       Size::Blocks(1, 4),      "32-bit float.";
    F16         1 "F16"       Size::Blocks(1, 2),      "16-bit float, IEEE binary16.";
    Q4_0        2 "Q4_0"      Size::Blocks(32, 18),    "4 bits, one scale for 32 weights.";
    Q4_1        3 "Q4_1"      Size::Blocks(32, 20),    "4 bits, scale and minimum for 32.";
    Q4_2        4 "Q4_2"      Size::Unknown(WITHDRAWN), "4 bits, one scale for 16; withdrawn by llama.cpp.";
    Q4_3        5 "Q4_3"      Size::Unknown(WITHDRAWN), "4 bits, scale and minimum for 16; withdrawn by llama.cpp.";
    Q5_0        6 "Q5_0"      Size::Blocks(32, 22),    "5 bits, one scale for 32.";
    Q5_1        7 "Q5_1"      Size::Blocks(32, 24),    "5 bits, scale and minimum for 32.";
    Q8_0        8 "Q8_0"      Size::Blocks(32, 34),    "8 bits, one scale for 32.";
    Q8_1        9 "Q8_1"      Size::Blocks(32, 36),    "8 bits, scale and sum for 32; for activations.";
    Q2_K       10 "Q2_K"      Size::Blocks(256, 84),   "2 bits, nested scales for 256.";
    Q3_K       11 "Q3_K"      Size::Blocks(256, 110),  "3 bits, nested scales for 256.";
    Q4_K       12 "Q4_K"      Size::Blocks(256, 144),  "4 bits, nested scales for 256.";
    Q5_K       13 "Q5_K"      Size::Blocks(256, 176),  "5 bits, nested scales for 256.";
    Q6_K       14 "Q6_K"      Size::Blocks(256, 210),  "6 bits, nested scales for 256.";
    Q8_K       15 "Q8_K"      Size::Blocks(256, 292),  "8 bits, one scale for 256; for activations.";
    IQ2_XXS    16 "IQ2_XXS"   Size::Blocks(256, 66),   "2.06 bits from a codebook.";
    IQ2_XS     17 "IQ2_XS"    Size::Blocks(256, 74),   "2.31 bits from a codebook.";
    IQ3_XXS    18 "IQ3_XXS"   Size::Blocks(256, 98),   "3.06 bits from a codebook.";
    IQ1_S      19 "IQ1_S"     Size::Blocks(256, 50),   "1.56 bits from a codebook.";
    IQ4_NL     20 "IQ4_NL"    Size::Blocks(32, 18),    "4 bits into a table of 16 values.";
    IQ3_S      21 "IQ3_S"     Size::Blocks(256, 110),  "3.44 bits from a codebook.";
    IQ2_S      22 "IQ2_S"     Size::Blocks(256, 82),   "2.56 bits from a codebook.";
    IQ4_XS     23 "IQ4_XS"    Size::Blocks(256, 136),  "4.25 bits into a table of 16 values.";
    I8         24 "I8"        Size::Blocks(1, 1),      "8-bit integer.";
    I16        25 "I16"       Size::Blocks(1, 2),      "16-bit integer.";
    I32        26 "I32"       Size::Blocks(1, 4),      "32-bit integer.";
    I64        27 "I64"       Size::Blocks(1, 8),      "64-bit integer.";
    F64        28 "F64"       Size::Blocks(1, 8),      "64-bit float.";
    IQ1_M      29 "IQ1_M"     Size::Blocks(256, 56),   "1.75 bits from a codebook.";
    BF16       30 "BF16"      Size::Blocks(1, 2),      "The upper half of a 32-bit float.";
    Q4_0_4_4   31 "Q4_0_4_4"  Size::Blocks(32, 18),    "Q4_0, four rows interleaved by four bytes.";
    Q4_0_4_8   32 "Q4_0_4_8"  Size::Blocks(32, 18),    "Q4_0, four rows interleaved by eight bytes.";
    Q4_0_8_8   33 "Q4_0_8_8"  Size::Blocks(32, 18),    "Q4_0, eight rows interleaved by eight bytes.";
    TQ1_0      34 "TQ1_0"     Size::Blocks(256, 54),   "Ternary, five weights in a byte, one scale for 256 (llama.cpp).";
    TQ2_0      35 "TQ2_0"     Size::Blocks(256, 66),   "Ternary, two bits, one scale for 256 (llama.cpp).";
    I2_S       36 "I2_S"      Size::Quarter(64),       "Ternary, two bits, one scale for the tensor (bitnet.cpp).";
    I8_S       37 "I8_S"      Size::Unknown(ACTIVATIONS),           "8-bit activations of bitnet.cpp; never in a file.";
    TL1        38 "TL1"       Size::Quarter(4),        "Ternary, pairs in nibbles, in tiles (bitnet.cpp on ARM).";
    TL2        39 "TL2"       Size::Tl2,               "Ternary, triples in five bits, in tiles (bitnet.cpp on x86).";
    MXFP4      39 "MXFP4"     Size::Blocks(32, 17),    "4-bit float, one exponent for 32 (llama.cpp, ik_llama.cpp).";
    Q1_0_G128  41 "Q1_0_G128" Size::Unknown(ELSEWHERE),           "One bit, one scale for 128 (ik_llama.cpp).";
    Q6_0      133 "Q6_0"      Size::Blocks(32, 26),    "6 bits, one scale for 32 (ik_llama.cpp).";
    IQ1_BN    134 "IQ1_BN"    Size::RowHeader(2, 64, 13), "Ternary, 1.625 bits, one f16 scale for a row (ik_llama.cpp).";
    IQ2_BN    135 "IQ2_BN"    Size::RowHeader(4, 64, 16), "Ternary, two bits, one f32 scale for a row (ik_llama.cpp).";
    Q8_K64    136 "Q8_K64"    Size::Unknown(ACTIVATIONS),           "8-bit activations of ik_llama.cpp; never in a file.";
    IQ2_TN    142 "IQ2_TN"    Size::Unknown(WITHDRAWN),           "Ternary, withdrawn by ik_llama.cpp.";
    IQ1_TN    143 "IQ1_TN"    Size::Unknown(WITHDRAWN),           "Ternary, withdrawn by ik_llama.cpp.";
    Q8_K16    147 "Q8_K16"    Size::Unknown(ACTIVATIONS),           "8-bit activations of ik_llama.cpp; never in a file.";
    IQ2_BN_R4 335 "IQ2_BN_R4" Size::RowHeader(4, 64, 16), "IQ2_BN, four rows interleaved (ik_llama.cpp).";
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl TensorType {
    /// The type of this number in a file of this family.
    pub(super) fn from_id(id: u32, family: Family) -> Option<TensorType> {
        let not_here = match family {
            Family::BitNet => TensorType::MXFP4,
            Family::Other => TensorType::TL2,
        };
        TensorType::ALL.iter().copied().find(|&ty| ty.id() == id && ty != not_here)
    }

    /// Bytes of a tensor of this type and shape (outermost dimension first), scales included.
    ///
    /// `None` if no such tensor exists: see [`TensorType::row_rule`]; or if the type never occurs in files.
    #[must_use]
    pub fn n_bytes(self, shape: &[usize]) -> Option<u64> {
        if !self.fits(shape) {
            return None;
        }
        let (k, n) = (u64::try_from(*shape.last()?).ok()?, n_elements(shape)?);
        let rows = n.checked_div(k)?;
        match self.size() {
            Size::Blocks(block, bytes) => n.checked_div(block)?.checked_mul(bytes),
            Size::RowHeader(header, block, bytes) => {
                k.checked_div(block)?.checked_mul(bytes)?.checked_add(header)?.checked_mul(rows)
            }
            Size::Quarter(_) => n.checked_div(4)?.checked_add(TAIL),
            Size::Tl2 => tl2_bytes(k, rows),
            Size::Unknown(_) => None,
        }
    }

    /// What this type demands of a shape, in words; `None` if the size of such a tensor is not known at all.
    #[must_use]
    pub fn row_rule(self) -> Option<String> {
        match self.size() {
            Size::Blocks(1, _) => Some("rows of any length".into()),
            Size::RowHeader(_, block, _) if self == TensorType::IQ2_BN_R4 => {
                Some(format!("rows of a multiple of {block} weights, and a multiple of 4 rows"))
            }
            Size::Blocks(block, _) | Size::RowHeader(_, block, _) | Size::Quarter(block) => {
                Some(format!("rows of a multiple of {block} weights"))
            }
            Size::Tl2 => Some(format!("rows of at least {TL2_MIN_ROW} weights")),
            Size::Unknown(_) => None,
        }
    }

    /// `general.file_type` of a model whose ternary matrices have this type, one of those that are written here: the
    /// programs they come from number them so.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            TensorType::TQ1_0 => 36,
            TensorType::TQ2_0 => 37,
            TensorType::TL1 => 38,
            TensorType::TL2 => 39,
            TensorType::IQ1_BN => 136,
            TensorType::IQ2_BN => 137,
            _ => 40, // I2_S
        }
    }

    /// Why the size of such a tensor is not known, in words that follow the type's name; `None` if it is.
    pub(super) fn why_unknown(self) -> Option<&'static str> {
        match self.size() {
            Size::Unknown(why) => Some(why),
            _ => None,
        }
    }

    /// Its name and number, as a refusal spells them; of MXFP4 also what would have made it TL2.
    pub(crate) fn spelled(self) -> String {
        let other = match self {
            TensorType::MXFP4 => {
                ", which is TL2 only where general.architecture begins with bitnet or general.file_type is 39"
            }
            _ => "",
        };
        format!("{self} (id {}{other})", self.id())
    }

    fn fits(self, shape: &[usize]) -> bool {
        let (Some(&k), Some(n)) = (shape.last(), n_elements(shape)) else { return false };
        let k = k as u64;
        match self.size() {
            Size::RowHeader(_, block, _) if self == TensorType::IQ2_BN_R4 => {
                k.is_multiple_of(block) && n.checked_div(k).is_some_and(|rows| rows.is_multiple_of(4))
            }
            Size::Blocks(block, _) | Size::RowHeader(_, block, _) | Size::Quarter(block) => {
                k.is_multiple_of(block)
            }
            Size::Tl2 => k >= TL2_MIN_ROW,
            Size::Unknown(_) => false,
        }
    }
}

/// Bytes after the weights of I2_S, TL1 and TL2: the scale, then filler.
const TAIL: u64 = 32;
/// The converter's size formula sets 256 weights of each row aside for pairs.
const TL2_MIN_ROW: u64 = 256;

/// bitnet.cpp sizes a TL2 tensor as if 256 weights of each row were pairs in nibbles and the rest triples in five
/// bits, whatever its tiles; integer division at each step, from left to right.
fn tl2_bytes(k: u64, rows: u64) -> Option<u64> {
    let triples =
        k.checked_sub(TL2_MIN_ROW)?.checked_mul(rows)?.checked_div(3)?.checked_mul(5)?.checked_div(8)?;
    let pairs = rows.checked_mul(TL2_MIN_ROW)?.checked_div(2)?.checked_mul(4)?.checked_div(8)?;
    triples.checked_add(pairs)?.checked_next_multiple_of(TAIL)?.checked_add(TAIL)
}

fn n_elements(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(u64::try_from(dim).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use TensorType::*;

    #[test]
    fn sizes_are_those_the_formats_define() {
        // The last dimension is the row.
        let sizes: &[(TensorType, &[usize], u64)] = &[
            (F32, &[7], 28),
            (F16, &[3, 5], 30),
            (BF16, &[2, 2, 2], 16),
            (Q4_0, &[2, 64], 72),
            (Q8_0, &[1, 32], 34),
            (Q4_K, &[2, 256], 288),
            (Q6_K, &[1, 512], 420),
            (IQ4_NL, &[1, 32], 18),
            (TQ1_0, &[2, 256], 108),
            (TQ2_0, &[2, 256], 132),
            (I2_S, &[1, 128], 64),
            (I2_S, &[2560, 6912], 2560 * 6912 / 4 + 32),
            (TL1, &[128, 64], 2080),
            (TL2, &[32, 320], 2528),
            (IQ1_BN, &[1, 64], 15),
            (IQ1_BN, &[3, 128], 84),
            (IQ2_BN, &[1, 64], 20),
            (IQ2_BN_R4, &[4, 64], 80),
            (MXFP4, &[1, 32], 17),
        ];
        for &(ty, shape, n_bytes) in sizes {
            assert_eq!(ty.n_bytes(shape), Some(n_bytes), "{ty} {shape:?}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_have_no_size() {
        let none: &[(TensorType, &[usize])] = &[
            (F32, &[]),
            (F32, &[usize::MAX, 8]),
            (F32, &[3, 0]),
            (F64, &[1 << 61]),
            (Q8_0, &[32, 33]),
            (TQ2_0, &[256, 128]),
            (I2_S, &[64, 32]),
            (TL2, &[32, 255]),
            (TL2, &[3 << 30, 1 << 32]),
            (IQ1_BN, &[64, 63]),
            (IQ2_BN_R4, &[6, 64]),
            (I8_S, &[64]),
        ];
        for &(ty, shape) in none {
            assert_eq!(ty.n_bytes(shape), None, "{ty} {shape:?}");
        }
    }

    #[test]
    fn dimensions_of_1_do_not_make_a_matrix_something_else() {
        let matrix = |shape: &[usize]| {
            let (name, shape) = (String::new(), shape.to_vec());
            TensorInfo { name, ty: F32, shape, shard: 0, offset: 0, n_bytes: 0 }.matrix()
        };
        assert_eq!(matrix(&[2, 3]), Some([2, 3]));
        assert_eq!(matrix(&[1, 1, 2, 3]), Some([2, 3]));
        assert_eq!(matrix(&[1, 3]), Some([1, 3]));
        assert_eq!((matrix(&[3]), matrix(&[2, 1, 3])), (None, None));
    }

    #[test]
    fn a_number_means_one_type_in_each_family() {
        for family in [Family::BitNet, Family::Other] {
            for &ty in TensorType::ALL {
                let found = TensorType::from_id(ty.id(), family).unwrap();
                assert!(found == ty || ty.id() == 39, "{ty} and {found} are both {}", ty.id());
            }
        }
        assert_eq!(TensorType::from_id(39, Family::BitNet), Some(TL2));
        assert_eq!(TensorType::from_id(39, Family::Other), Some(MXFP4));
        assert_eq!(TensorType::from_id(40, Family::Other), None);
        assert_eq!(format!("{:>6}|", TL1), "   TL1|");
    }
}
