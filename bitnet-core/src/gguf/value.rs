//! Metadata values: the thirteen types of the format, decoded when they are asked for.
//!
//! ```text
//! id  0 u8   1 i8   2 u16   3 i16   4 u32   5 i32   6 f32   7 bool (0 or 1)   10 u64   11 i64   12 f64
//!     8 string: length u64, bytes         9 array: element type u32, count u64, elements (no arrays of arrays)
//! ```
//!
//! A string or an array is a view of the file: scanning a header with a vocabulary of 128 000 tokens allocates
//! nothing for them.

use std::fmt;

use super::reader::{Fault, Reader};

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An unsigned 8-bit integer.
    U8(u8),
    /// A signed 8-bit integer.
    I8(i8),
    /// An unsigned 16-bit integer.
    U16(u16),
    /// A signed 16-bit integer.
    I16(i16),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// A signed 32-bit integer.
    I32(i32),
    /// A single-precision number.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A string; nominally UTF-8, but nothing in the format enforces it.
    Str(&'a [u8]),
    /// Values of one type.
    Array(Array<'a>),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A signed 64-bit integer.
    I64(i64),
    /// A double-precision number.
    F64(f64),
}

/// The types a value can have, with the format's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "each is the type of the `Value` of the same name")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::{Array, Bool, F32, F64, I8, I16, I32, I64, Str, U8, U16, U32, U64};
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64]
    };

    /// The type of this number in the format.
    #[must_use]
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The format's number for this type.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The name used in error texts: `u32`, `string`, `array`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Str => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Bytes of one value, if all values of this type have as many.
    pub(super) fn fixed_size(self) -> Option<u64> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::Str | ValueType::Array => None,
        }
    }
}

/// The longest string value: a whole tokenizer definition fits with room to spare.
const MAX_STRING: u64 = 64 << 20;
/// The longest string in an array: a token or a merge of that size is no longer text.
const MAX_ELEMENT: u64 = 64 << 10;

impl<'a> Value<'a> {
    /// Its type.
    #[must_use]
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value of an integer of any type.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// Whether both are the same bytes in a file: a NaN is itself, and -0.0 is not 0.0.
    pub(crate) fn same_bits(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }

    /// Reads a value of type `ty`, checking every byte of it, the elements of an array included.
    pub(super) fn read(r: &mut Reader<'a>, ty: ValueType) -> Result<Value<'a>, Fault> {
        match ty {
            ValueType::Str => r.string(MAX_STRING).map(Value::Str),
            ValueType::Array => Array::read(r).map(Value::Array),
            _ => read_scalar(r, ty),
        }
    }

    /// Reads a value again that [`Value::read`] found sound and that fills the reader: no element is looked at.
    pub(super) fn reread(r: &mut Reader<'a>, ty: ValueType) -> Option<Value<'a>> {
        match ty {
            ValueType::Array => {
                let elem = ValueType::from_id(r.u32().ok()?)?;
                let count = usize::try_from(r.u64().ok()?).ok()?;
                Some(Value::Array(Array { elem, count, bytes: r.take(r.remaining() as u64).ok()? }))
            }
            _ => Value::read(r, ty).ok(),
        }
    }

    /// Appends the bytes that [`Value::read`] would read.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.extend(v.to_le_bytes()),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::Str(v) => write_string(out, v),
            Value::Array(v) => {
                out.extend(v.elem.id().to_le_bytes());
                out.extend((v.count as u64).to_le_bytes());
                out.extend(v.bytes);
            }
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

pub(super) fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn read_scalar<'a>(r: &mut Reader<'a>, ty: ValueType) -> Result<Value<'a>, Fault> {
    Ok(match ty {
        ValueType::U8 => Value::U8(r.u8()?),
        ValueType::I8 => Value::I8(r.i8()?),
        ValueType::U16 => Value::U16(r.u16()?),
        ValueType::I16 => Value::I16(r.i16()?),
        ValueType::U32 => Value::U32(r.u32()?),
        ValueType::I32 => Value::I32(r.i32()?),
        ValueType::F32 => Value::F32(r.f32()?),
        ValueType::Bool => match r.u8()? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(Fault::new("a bool of 0 or 1", other.to_string())),
        },
        ValueType::U64 => Value::U64(r.u64()?),
        ValueType::I64 => Value::I64(r.i64()?),
        ValueType::F64 => Value::F64(r.f64()?),
        ValueType::Str => Value::Str(r.string(MAX_ELEMENT)?),
        ValueType::Array => return Err(Fault::new("no array inside an array", "one")),
    })
}

/// Shows a value in one line of bounded length: `42`, `"bitnet-b1.58"`, `[128256 x string]`.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::F32(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::Str(bytes) => {
                const SHOWN: usize = 80;
                let head = bytes.get(..SHOWN).unwrap_or(bytes);
                let more = if bytes.len() > SHOWN { "..." } else { "" };
                write!(f, "{:?}{more}", String::from_utf8_lossy(head))
            }
            Value::Array(array) => write!(f, "[{} x {}]", array.count, array.elem.name()),
            integer => match integer.as_integer() {
                Some(v) => write!(f, "{v}"),
                None => Ok(()),
            },
        }
    }
}

/// An array value: its elements, still as the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    elem: ValueType,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of its elements.
    #[must_use]
    pub fn elem_type(&self) -> ValueType {
        self.elem
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its elements in order.
    #[must_use]
    pub fn iter(&self) -> Values<'a> {
        Values { reader: Reader::new(self.bytes), elem: self.elem, left: self.count }
    }

    /// Its elements in order, if they are strings.
    #[must_use]
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.elem == ValueType::Str).then(|| Strings { reader: Reader::new(self.bytes), left: self.count })
    }

    /// An array of elements that were encoded or checked already.
    pub(super) fn from_parts(elem: ValueType, count: usize, bytes: &'a [u8]) -> Array<'a> {
        Array { elem, count, bytes }
    }

    fn read(r: &mut Reader<'a>) -> Result<Array<'a>, Fault> {
        let id = r.u32()?;
        let elem = ValueType::from_id(id)
            .filter(|&ty| ty != ValueType::Array)
            .ok_or_else(|| Fault::new("an array of a type 0 to 12 other than 9", format!("type {id}")))?;
        let count = r.u64()?;
        // A string takes at least the eight bytes of its length.
        let least = elem.fixed_size().unwrap_or(8);
        let bytes = count.checked_mul(least).filter(|&n| n <= r.remaining() as u64).ok_or_else(|| {
            Fault::new(
                format!("an array that fits the {} bytes left", r.remaining()),
                format!("{count} elements of type {}", elem.name()),
            )
        })?;
        let start = r.clone();
        match elem {
            ValueType::Str => {
                for i in 0..count {
                    r.string(MAX_ELEMENT).map_err(|fault| fault.of_element(i))?;
                }
            }
            ValueType::Bool => {
                for i in 0..count {
                    read_scalar(r, elem).map_err(|fault| fault.of_element(i))?;
                }
            }
            _ => {
                r.take(bytes)?;
            }
        }
        let bytes = start.up_to(r);
        let count = usize::try_from(count).map_err(|_| Fault::new("fewer elements", count.to_string()))?;
        Ok(Array { elem, count, bytes })
    }
}

/// The elements of an [`Array`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    reader: Reader<'a>,
    elem: ValueType,
    left: usize,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // `Array::read` saw every element. Only a file changed under the map can end this early.
        read_scalar(&mut self.reader, self.elem).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// The elements of an array of strings.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.reader.string(MAX_ELEMENT).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}
