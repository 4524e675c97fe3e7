use bitnet_trace_macros::trace_timing;

#[trace_timing]
const fn in_the_compiler() {}

#[trace_timing]
pub async fn in_pieces() {}

#[trace_timing]
#[inline(always)]
fn too_small() {}

#[trace_timing]
fn forward() {}

trait Layer {
    #[trace_timing]
    fn declared(&self);
}

#[trace_timing]
struct NotAFunction;

fn main() {}
