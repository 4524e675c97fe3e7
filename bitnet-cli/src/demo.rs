//! The demo model: trained for sums, comparisons and short lists, and part of the binary.

use bitnet_core::gguf::Gguf;

use crate::exit::Failure;

/// What messages call it, where another model has its path.
pub(crate) const NAME: &str = "built-in demo model";

/// A file's bytes where every tensor starts as it would in a mapped file.
#[cfg(feature = "demo")]
#[repr(align(64))]
struct Aligned<B: ?Sized>(B);

#[cfg(feature = "demo")]
static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../assets/demo.gguf"));

/// The file.
#[cfg(feature = "demo")]
pub(crate) fn bytes() -> &'static [u8] {
    &BYTES.0
}

/// What a binary without a model of its own has in its place.
#[cfg(not(feature = "demo"))]
pub(crate) fn bytes() -> &'static [u8] {
    unreachable!("without a model of its own, the binary's parser refuses a line that names none")
}

/// Opens it. Nothing is copied.
pub(crate) fn open() -> Result<Gguf, Failure> {
    Ok(Gguf::from_static(NAME, bytes())?)
}
