use bitnet_trace_macros::quant_trace;

fn main() {
    quant_trace!();
    quant_trace!(tensor = "a", format = "F16", kernel = "scalar");
    quant_trace!(tensor = "a", format = "F16", kernel = "scalar", size = 3);
    quant_trace!(tensor = "a", tensor = "b", format = "F16", kernel = "scalar", shape = [1]);
    quant_trace!("a", "F16", "scalar", [1]);
}
