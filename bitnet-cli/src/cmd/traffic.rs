//! What decoding costs in memory traffic.

use bitnet_core::gguf::Gguf;

/// Bytes of weights that one decode step reads: all of them, but of an embedding matrix that is not also the head
/// just one row.
pub(super) fn bytes_per_token(gguf: &Gguf) -> u64 {
    let has_head = gguf.tensors().iter().any(|info| info.name == "output.weight");
    let read = gguf.tensors().iter().map(|info| {
        let rows = info.shape.first().map_or(1, |&rows| rows.max(1) as u64);
        if has_head && info.name == "token_embd.weight" { info.n_bytes / rows } else { info.n_bytes }
    });
    read.fold(0, u64::saturating_add)
}
