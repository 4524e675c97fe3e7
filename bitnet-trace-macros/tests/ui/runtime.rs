// The names the expansions call, so that these programs build with the feature on as well as off.
// The real ones are tested in bitnet-core.

use std::cell::RefCell;

thread_local!(pub static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

fn see(line: String) {
    SEEN.with_borrow_mut(|seen| seen.push(line));
}

/// What was traced since the last call, on this thread.
pub fn seen() -> Vec<String> {
    SEEN.take()
}

pub struct Site(&'static str, &'static [&'static str]);

impl Site {
    pub const fn detail(name: &'static str, _module: &'static str, fields: &'static [&'static str]) -> Site {
        Site(name, fields)
    }

    pub const fn forward_phase(
        name: &'static str,
        _module: &'static str,
        fields: &'static [&'static str],
    ) -> Site {
        Site(name, fields)
    }

    pub fn enter(&'static self, values: &[String]) -> Span {
        see(format!("+{}{:?}{values:?}", self.0, self.1));
        Span(Some(self.0))
    }
}

pub struct Span(Option<&'static str>);

impl Span {
    pub fn off() -> Span {
        Span(None)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(name) = self.0 {
            see(format!("-{name}"));
        }
    }
}

pub trait Field {
    fn field(&self) -> String;
}

impl<T: std::fmt::Display + ?Sized> Field for T {
    fn field(&self) -> String {
        self.to_string()
    }
}

pub fn detail_on() -> bool {
    true
}

pub fn phase_on() -> bool {
    true
}

pub fn quant_on() -> bool {
    true
}

pub fn parity_on() -> bool {
    true
}

pub fn quant_line(
    tensor: &dyn std::fmt::Display,
    format: &dyn std::fmt::Display,
    kernel: &dyn std::fmt::Display,
    shape: &dyn std::fmt::Debug,
) {
    see(format!("quant {tensor} {format} {kernel} {shape:?}"));
}

pub fn parity_line(step: usize, token: u32, logits: &[f32]) {
    see(format!("parity {step} {token} {logits:?}"));
}
