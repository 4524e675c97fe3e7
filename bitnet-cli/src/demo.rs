//! The demo model: trained for sums, comparisons and short lists, and part of the binary.

use bitnet_core::gguf::Gguf;

use crate::exit::Failure;

/// What messages call it, where another model has its path.
pub(crate) const NAME: &str = "built-in demo model";

/// A file's bytes where every tensor starts as it would in a mapped file.
#[repr(align(64))]
struct Aligned<B: ?Sized>(B);

static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../assets/demo.gguf"));

/// Opens it. Nothing is copied.
pub(crate) fn open() -> Result<Gguf, Failure> {
    Ok(Gguf::from_static(NAME, &BYTES.0)?)
}
