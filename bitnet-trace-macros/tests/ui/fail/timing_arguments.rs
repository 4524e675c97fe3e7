use bitnet_trace_macros::trace_timing;

#[trace_timing(layer, pos)]
fn shorthand(_pos: usize) {}

#[trace_timing("name")]
fn literal() {}

#[trace_timing(name, rows = 1, rows = 2)]
fn twice() {}

#[trace_timing(rows = 1; cols = 2)]
fn separator() {}

#[trace_timing(rows = count()?)]
fn steers() {}

#[trace_timing(rows = )]
fn unfinished() {}

fn main() {}
