//! Number formats, one file each: layout, pack, unpack. No file access, no instruction sets.

pub mod act;
pub mod dense;
pub mod i2s;
#[cfg(test)]
mod testing;
