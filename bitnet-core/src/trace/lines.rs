//! Lines on stderr. Each is one write under one lock, so threads never interleave; a stderr that cannot be
//! written never stops a run.

use std::cell::Cell;
use std::fmt::{self, Debug, Display, Write as _};
use std::io::Write as _;

use super::clock;
use crate::TokenId;
use crate::parity::{TOP_K, line, top_k};

fn put(mut text: String) {
    text.push('\n');
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

thread_local! {
    /// The number of this thread's first line of the current text, and of its next line.
    static STEPS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// The line of [`parity_trace!`](super::parity_trace).
///
/// A thread that generates one text after the other, as `chat` does, counts on: its lines are one log.
pub fn parity_line(step: usize, token: TokenId, logits: &[f32]) {
    put(line(count_on(step as u64), token, &top_k(logits, TOP_K)));
}

/// The number of the line for a text's `step`; a text begins with step 0.
fn count_on(step: u64) -> u64 {
    let (first, next) = STEPS.get();
    let first = if step == 0 { next } else { first };
    let number = first.wrapping_add(step);
    STEPS.set((first, number.wrapping_add(1)));
    number
}

/// The line of [`quant_trace!`](super::quant_trace).
pub fn quant_line(tensor: &dyn Display, format: &dyn Display, kernel: &dyn Display, shape: &dyn Debug) {
    put(quant_text(tensor, format, kernel, shape));
}

fn quant_text(tensor: &dyn Display, format: &dyn Display, kernel: &dyn Display, shape: &dyn Debug) -> String {
    let mut text = String::from("quant_dispatch: tensor=");
    // A tensor's name comes from a file: it shall neither end the line nor pass for another field.
    let _ = write!(OneWord(&mut text), "{tensor}"); // writing to a String cannot fail
    let _ = write!(text, " format={format} kernel={kernel} shape={shape:?}");
    text
}

/// Passes text on with blanks and control characters escaped.
struct OneWord<'a>(&'a mut String);

impl fmt::Write for OneWord<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if c.is_whitespace() || c.is_control() {
                self.0.extend(c.escape_unicode());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// The four parts of a generated token's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Embed,
    Forward,
    Logits,
    Sample,
}

thread_local! {
    /// Ticks per phase since this thread's last four lines.
    static PHASES: Cell<[u64; 4]> = const { Cell::new([0; 4]) };
}

/// Adds to a phase; sampling is what completes a token, so it prints the four lines.
///
/// Phases add up until then: a prompt taken in several batches is still one `embed` and one `forward`.
pub(super) fn phase_done(phase: Phase, ticks: u64) {
    let mut sums = PHASES.get();
    sums[phase as usize] += ticks;
    PHASES.set(if phase == Phase::Sample { [0; 4] } else { sums });
    if phase == Phase::Sample {
        put(timing_text(sums.map(|sum| clock::length(sum).as_nanos())));
    }
}

/// Forgets the phases of a token that is never chosen, because its evaluation was interrupted.
pub fn drop_phases() {
    PHASES.set([0; 4]);
}

/// Nearest microseconds, not truncated: four truncations would lose two of them on every token.
fn timing_text(ns: [u128; 4]) -> String {
    let [embed, forward, logits, sample] = ns.map(|ns| (ns + 500) / 1000);
    format!(
        "timing: embed_us={embed}\ntiming: forward_us={forward}\ntiming: logits_us={logits}\ntiming: sample_us={sample}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatch_line_looks_as_documented() {
        assert_eq!(
            quant_text(&"blk.0.attn_q.weight", &"QK256", &"avx512vnni", &[2560usize, 2560]),
            "quant_dispatch: tensor=blk.0.attn_q.weight format=QK256 kernel=avx512vnni shape=[2560, 2560]"
        );
    }

    #[test]
    fn a_tensor_name_can_neither_break_the_line_nor_add_a_field() {
        let text = quant_text(&"a\nquant_dispatch: tensor=b format=F16", &"F32", &"scalar", &[1usize]);
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(text.matches(" format=").count(), 1, "{text}");
    }

    #[test]
    fn the_lines_of_one_text_after_the_other_are_one_log() {
        let steps: Vec<u64> = [0, 1, 2, 0, 0, 1].map(count_on).to_vec();
        assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn timing_lines_look_as_documented() {
        let text = "timing: embed_us=3\ntiming: forward_us=15023\ntiming: logits_us=812\ntiming: sample_us=0";
        assert_eq!(timing_text([2500, 15_023_499, 812_000, 499]), text);
    }
}
