use bitnet_trace_macros::parity_trace;

fn main() {
    parity_trace!(step = 0, token = 1);
    parity_trace!(step = 0, token = 1, logits = &[], top_k = 10);
    parity_trace!(step = 0, token = return, logits = &[]);
}
