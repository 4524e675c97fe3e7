//! Number formats, one file each: layout, pack, unpack. No file access, no instruction sets.

pub mod absmean;
pub mod act;
pub mod codes;
pub mod columns;
pub mod dense;
pub mod hf_packed;
pub mod i2s;
pub mod i2s_layouts;
pub mod iq_bn;
#[cfg(test)]
mod pairs;
pub mod scales;
pub mod ternary;
#[cfg(test)]
pub(crate) mod testing;
pub mod tl1;
pub mod tl2;
pub mod tl_tiles;
pub mod tq;
pub mod tri5;
