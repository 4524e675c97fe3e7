//! Stop strings: ending a generation at a text rather than at a token.

use crate::error::{Error, Result};

/// Watches generated text for stop strings, and never lets a part of one through.
///
/// The first stop string to be *completed* ends the text, and if several end at the same place the longest
/// does; so the outcome does not depend on how the text is cut into tokens. Linear in the text
/// (Knuth, Morris, Pratt 1977), one automaton for each stop string.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

#[derive(Debug)]
struct Stop {
    text: Vec<u8>,
    /// `fall[i]`: length of the longest proper suffix of the first `i + 1` bytes that begins the text.
    fall: Vec<usize>,
    n_matched: usize,
}

/// What may be printed after a piece of text came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Text that is certainly no part of a stop string.
    pub text: String,
    /// Whether a stop string was met; nothing comes after it.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher for `stops`, none of which may be empty; without any, all text passes at once.
    ///
    /// # Errors
    /// If a stop string is empty.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Result<StopMatcher> {
        let stops = stops.into_iter().map(|stop| Stop::new(stop.into().into_bytes()));
        let stops: Vec<Stop> = stops.collect();
        if stops.iter().any(|stop| stop.text.is_empty()) {
            let reason = "an empty text would stop everything; expected at least one character".into();
            return Err(Error::Invalid { what: "--stop".into(), reason });
        }
        Ok(StopMatcher { stops, held: String::new(), stopped: false })
    }

    /// Takes the next piece of text and gives what may be printed.
    pub fn push(&mut self, text: &str) -> Stopped {
        if self.stopped {
            return Stopped { text: String::new(), stopped: true };
        }
        let n_before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            let mut longest = None;
            for stop in &mut self.stops {
                if stop.advance(byte) {
                    longest = longest.max(Some(stop.text.len()));
                }
            }
            if let Some(len) = longest {
                self.stopped = true;
                self.held.truncate(n_before + i + 1 - len);
                return Stopped { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        let n_kept = self.stops.iter().map(|stop| stop.n_matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - n_kept);
        Stopped { text: std::mem::replace(&mut self.held, kept), stopped: false }
    }

    /// What is held back when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        self.stops.iter_mut().for_each(|stop| stop.n_matched = 0);
        std::mem::take(&mut self.held)
    }
}

impl Stop {
    fn new(text: Vec<u8>) -> Stop {
        let mut stop = Stop { fall: vec![0; text.len()], text, n_matched: 0 };
        for i in 1..stop.text.len() {
            stop.advance(stop.text[i]);
            stop.fall[i] = stop.n_matched;
        }
        stop.n_matched = 0;
        stop
    }

    /// Takes one byte; true if it completes the text.
    fn advance(&mut self, byte: u8) -> bool {
        while self.n_matched > 0 && self.text.get(self.n_matched) != Some(&byte) {
            self.n_matched = self.fall[self.n_matched - 1];
        }
        if self.text[self.n_matched] == byte {
            self.n_matched += 1;
        }
        self.n_matched == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything printed for `parts`, and whether a stop was met.
    fn run(stops: &[&str], parts: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().copied()).unwrap();
        let mut text = String::new();
        for part in parts {
            let step = matcher.push(part);
            text.push_str(&step.text);
            if step.stopped {
                return (text, true);
            }
        }
        text.push_str(&matcher.finish());
        (text, false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_never_shown() {
        assert_eq!(run(&["User:"], &["Hello\nUs", "er", ": hi"]), ("Hello\n".into(), true));
        let mut matcher = StopMatcher::new(["User:"]).unwrap();
        assert_eq!(matcher.push("a Use"), Stopped { text: "a ".into(), stopped: false });
        assert_eq!(matcher.push("ful"), Stopped { text: "Useful".into(), stopped: false });
        assert_eq!(matcher.push("U"), Stopped { text: String::new(), stopped: false });
        assert_eq!(matcher.finish(), "U");
    }

    #[test]
    fn beginnings_inside_beginnings_are_not_missed() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), true));
        assert_eq!(run(&["abcabd"], &["abcabcabd"]), ("abc".into(), true));
        assert_eq!(run(&["aa"], &["ba"]), ("ba".into(), false));
    }

    #[test]
    fn the_first_completed_stop_wins_however_the_text_is_cut() {
        for parts in [&["xabcde"][..], &["xab", "cde"], &["x", "a", "b", "c", "d", "e"]] {
            assert_eq!(run(&["abcde", "bcd"], parts), ("xa".into(), true));
            assert_eq!(
                run(&["bcd", "abcd"], parts),
                ("x".into(), true),
                "the longest of two that end together"
            );
        }
    }

    #[test]
    fn characters_that_share_their_first_byte_stay_whole() {
        // é is C3 A9, è is C3 A8.
        assert_eq!(run(&["é"], &["caf", "è", "s"]), ("cafès".into(), false));
        assert_eq!(run(&["é"], &["caf", "é", "s"]), ("caf".into(), true));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopMatcher::new(["x", ""]).unwrap_err();
        assert!(error.is_misuse() && error.to_string().starts_with("--stop: "), "{error}");
        assert_eq!(run(&[], &["all", " of it"]), ("all of it".into(), false));
    }
}
