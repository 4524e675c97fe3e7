//! Cutting text into words before byte-level merging ("pre-tokenization").
//!
//! Merges never cross a cut, so these expressions are part of what a model was trained with. They are
//! searched with a linear-time engine, which has no look-ahead; the only look-ahead in use, `\s+(?!\S)`
//! (white space up to, not including, its last character if a word follows), is taken afterwards in
//! [`Step::end_of`]. The tests compare every rule with the published expressions.

use std::path::Path;

use regex::Regex;

use crate::error::{Error, Result};

/// A family of cutting rules, as `tokenizer.ggml.pre` and `--pre` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreSplit {
    /// What bitnet.cpp does when a file names no rule: four expressions, one after the other.
    Default,
    /// Llama 3 and BitNet b1.58 2B-4T; a word that is a token as a whole is never merged.
    Llama3,
    /// Falcon: punctuation, GPT-2 words, digits by three.
    Falcon,
    /// Falcon3 and Falcon-E as bitnet.cpp reads them: punctuation, GPT-2 words, single digits.
    Falcon3,
    /// GPT-2 words alone.
    Gpt2,
}

/// Every accepted name; several may mean the same rule.
const NAMES: [(&str, PreSplit); 11] = [
    ("default", PreSplit::Default),
    ("llama-bpe", PreSplit::Llama3),
    ("llama3", PreSplit::Llama3),
    ("llama-v3", PreSplit::Llama3),
    ("falcon", PreSplit::Falcon),
    ("falcon3", PreSplit::Falcon3),
    ("falcon_e", PreSplit::Falcon3),
    ("falcon-e", PreSplit::Falcon3),
    ("gpt-2", PreSplit::Gpt2),
    ("gpt2", PreSplit::Gpt2),
    ("gpt_2", PreSplit::Gpt2),
];

/// Llama 3's expression as published; [`LLAMA3`] is the same without look-ahead.
pub(super) const LLAMA3_PUBLISHED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// GPT-2's expression, published with `\s+(?!\S)` last. What that leaves unmatched is one white-space
/// character before a word, which becomes a piece of its own either way.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const PUNCTUATION_BACKTICK: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const NUMBERS: &str = r"\p{N}+";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";
const ONE_DIGIT: &str = r"[0-9]";

impl PreSplit {
    /// The rule called `name`, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<PreSplit> {
        NAMES.iter().find(|(known, _)| *known == name).map(|&(_, rule)| rule)
    }

    /// Every accepted name, for messages: `default, llama-bpe, ...`.
    #[must_use]
    pub fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    /// The rule a caller asked for by `--pre`.
    pub(super) fn chosen(name: &str) -> Result<PreSplit> {
        PreSplit::from_name(name).ok_or_else(|| Error::Invalid {
            what: format!("--pre {name}"),
            reason: format!("expected one of {}", PreSplit::names()),
        })
    }

    /// The refusal of a `--pre` that would change nothing in the vocabulary at `path`.
    pub(crate) fn irreplaceable(path: &Path, why: &str) -> Error {
        Error::Invalid { what: "--pre".into(), reason: format!("{}: {why}", path.display()) }
    }

    /// Whether a word that is a token as a whole is emitted without merging.
    pub(super) fn ignores_merges(self) -> bool {
        self == PreSplit::Llama3
    }

    fn expressions(self) -> &'static [&'static str] {
        match self {
            PreSplit::Default => &[PUNCTUATION, GPT2, NUMBERS, THREE_DIGITS],
            PreSplit::Llama3 => &[LLAMA3],
            PreSplit::Falcon => &[PUNCTUATION_BACKTICK, GPT2, THREE_DIGITS],
            PreSplit::Falcon3 => &[PUNCTUATION_BACKTICK, GPT2, ONE_DIGIT],
            PreSplit::Gpt2 => &[GPT2],
        }
    }
}

/// The compiled expressions of one [`PreSplit`].
#[derive(Debug)]
pub(super) struct Splitter {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    find: Regex,
    /// Whether the expression ends in `\s+` standing for `\s+(?!\S)|\s+`.
    gives_back_space: bool,
    /// Whether `\s*[\r\n]+` comes before it.
    keeps_line_breaks: bool,
}

impl Splitter {
    pub(super) fn new(rule: PreSplit) -> Splitter {
        let steps = rule.expressions().iter().map(|&expression| Step {
            find: Regex::new(expression).expect("the expressions above compile"),
            gives_back_space: expression.ends_with(r"|\s+"),
            keeps_line_breaks: expression == LLAMA3,
        });
        Splitter { steps: steps.collect() }
    }

    /// Hands the words of `text` to `emit`, in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, emit: &mut dyn FnMut(&'t str)) {
        cut(&self.steps, text, emit);
    }
}

/// Applies the first step, and the others to each of its pieces: matches, and what lies between them.
fn cut<'t>(steps: &[Step], text: &'t str, emit: &mut dyn FnMut(&'t str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            emit(text);
        }
        return;
    };
    let mut done = 0;
    while done < text.len() {
        let Some(found) = step.find.find_at(text, done) else { break };
        let end = step.end_of(text, found.range());
        cut(rest, &text[done..found.start()], emit);
        cut(rest, &text[found.start()..end], emit);
        done = end;
    }
    cut(rest, &text[done..], emit);
}

impl Step {
    /// Where a match ends once `\s+(?!\S)` has had its say.
    ///
    /// Only the last alternative matches pure white space, except that Llama 3's `\s*[\r\n]+` takes a run
    /// with a line break up to its last one. So a match of pure white space that was not kept for its line
    /// break is a whole run, and gives back its last character if it has another and a word follows.
    fn end_of(&self, text: &str, found: std::ops::Range<usize>) -> usize {
        let mut backwards = text[found.clone()].chars().rev();
        let Some(last) = backwards.next() else { return found.end };
        let kept = self.keeps_line_breaks && matches!(last, '\r' | '\n');
        if !self.gives_back_space || found.end == text.len() || !last.is_whitespace() || kept {
            return found.end;
        }
        let mut before = backwards.peekable();
        let shorter = found.end - last.len_utf8();
        if before.peek().is_some() && before.all(char::is_whitespace) { shorter } else { found.end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::utils::SysRegex;

    fn pieces(rule: PreSplit, text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        Splitter::new(rule).split(text, &mut |piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn llama3_keeps_punctuation_with_words_and_numbers_by_three() {
        assert_eq!(
            pieces(PreSplit::Llama3, "Hello, world! I'm 12345 (ok).\n\n  x"),
            ["Hello", ",", " world", "!", " I", "'m", " ", "123", "45", " (", "ok", ").\n\n", " ", " x"]
        );
        // An opening mark sticks to the word that follows; the apostrophe rule ignores case.
        assert_eq!(pieces(PreSplit::Llama3, "(ok) I'M"), ["(ok", ")", " I", "'M"]);
    }

    #[test]
    fn the_default_rule_cuts_punctuation_off_and_splits_contractions() {
        assert_eq!(
            pieces(PreSplit::Default, "Hello, world! I'm 12345 (ok).\n\n  x"),
            [
                "Hello", ",", " world", "!", " I", "'", "m", " ", "123", "45", " ", "(", "ok", ").", "\n\n ",
                " x"
            ]
        );
    }

    #[test]
    fn falcon_rules_differ_in_digits() {
        assert_eq!(pieces(PreSplit::Falcon3, "a 2024`b"), ["a", " ", "2", "0", "2", "4", "`", "b"]);
        assert_eq!(pieces(PreSplit::Falcon, "a 2024`b"), ["a", " ", "202", "4", "`", "b"]);
        assert_eq!(pieces(PreSplit::Gpt2, "a 2024`b"), ["a", " 2024", "`", "b"]);
    }

    #[test]
    fn white_space_before_a_word_gives_back_one_character() {
        for rule in [PreSplit::Llama3, PreSplit::Gpt2] {
            assert_eq!(pieces(rule, "a   b"), ["a", "  ", " b"]);
            assert_eq!(pieces(rule, "a   "), ["a", "   "]);
            assert_eq!(pieces(rule, "\u{3000}\u{3000}\u{3000}1"), ["\u{3000}\u{3000}", "\u{3000}", "1"]);
        }
        assert_eq!(pieces(PreSplit::Llama3, "a \n \n  b"), ["a", " \n \n", " ", " b"]);
        assert_eq!(pieces(PreSplit::Gpt2, "a\n\nb"), ["a", "\n", "\n", "b"]);
    }

    /// Cuts with the look-ahead engine of the `tokenizers` crate.
    fn published(expressions: &[SysRegex], text: &str) -> Vec<String> {
        let mut pieces = vec![text.to_owned()];
        for find in expressions {
            let mut next = Vec::new();
            for piece in &pieces {
                let mut done = 0;
                for (start, end) in find.find_iter(piece) {
                    next.push(piece[done..start].to_owned());
                    next.push(piece[start..end].to_owned());
                    done = end;
                }
                next.push(piece[done..].to_owned());
            }
            next.retain(|piece| !piece.is_empty());
            pieces = next;
        }
        pieces
    }

    #[test]
    fn every_rule_cuts_like_its_published_expressions() {
        const GPT2_PUBLISHED: &str =
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
        let rules: [(PreSplit, &[&str]); 5] = [
            (PreSplit::Llama3, &[LLAMA3_PUBLISHED]),
            (PreSplit::Gpt2, &[GPT2_PUBLISHED]),
            (PreSplit::Default, &[PUNCTUATION, GPT2_PUBLISHED, NUMBERS, THREE_DIGITS]),
            (PreSplit::Falcon, &[PUNCTUATION_BACKTICK, GPT2_PUBLISHED, THREE_DIGITS]),
            (PreSplit::Falcon3, &[PUNCTUATION_BACKTICK, GPT2_PUBLISHED, ONE_DIGIT]),
        ];
        // Few characters, so that the alternatives meet often.
        let alphabet: Vec<char> =
            "  \t\n\r\u{a0}\u{3000}\u{85}'''sStTrRvVeEmMlLdDxñ漢\u{301}\u{17f}0123٣½Ⅷ.,!()<|>$+^~`_-€😀\0"
                .chars()
                .collect();
        for (rule, expressions) in rules {
            let splitter = Splitter::new(rule);
            let expressions: Vec<SysRegex> = expressions.iter().map(|e| SysRegex::new(e).unwrap()).collect();
            let mut state = 1_u64;
            for round in 0..4000 {
                let text: String = (0..round % 40)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        alphabet[(state >> 33) as usize % alphabet.len()]
                    })
                    .collect();
                let mut pieces = Vec::new();
                splitter.split(&text, &mut |piece| pieces.push(piece));
                assert_eq!(pieces, published(&expressions, &text), "{rule:?} on {text:?}");
            }
        }
    }

    #[test]
    fn every_listed_name_is_known() {
        for name in PreSplit::names().split(", ") {
            assert!(PreSplit::from_name(name).is_some(), "{name}");
        }
        assert_eq!(PreSplit::from_name("Llama3"), None);
    }
}
