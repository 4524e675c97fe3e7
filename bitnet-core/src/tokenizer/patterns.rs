//! What the regular expressions of a `tokenizer.json` may cost, told from their texts before the crate compiles them.
//!
//! An expression with a look-around is compiled in parts, each of which may take megabytes, and so are the others in a
//! file: only together do they have a limit. Most of what a part takes is for classes like `\w`, of which a text has at
//! most one in two bytes, and for counts like `{100}`, which repeat what stands before them.

use serde_json::Value;

/// Of all expressions of a file, each as long as its counts make it. Published files stay below 3000.
const MAX_BYTES: usize = 8192;
/// Of all expressions of a file. Published files have some five.
const MAX_LOOK_AROUNDS: usize = 32;

/// The expressions of a file, those seen so far.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    n_bytes: usize,
    n_look_arounds: usize,
}

impl Patterns {
    /// Adds what stands under `pattern` in a step. If that is too much, what was expected and what was found.
    pub(super) fn add(&mut self, pattern: &Value) -> Result<(), (String, String)> {
        for (kind, text) in pattern.as_object().into_iter().flatten() {
            let Some(text) = text.as_str() else { continue };
            // A `String` is searched as an expression, too, but one of these letters.
            let (repeats, look_arounds) = match kind.as_str() {
                "Regex" => (repeats(text), look_arounds(text)),
                _ => (1, 0),
            };
            self.n_bytes = self.n_bytes.saturating_add(text.len().saturating_mul(repeats));
            self.n_look_arounds = self.n_look_arounds.saturating_add(look_arounds);
        }
        if self.n_bytes > MAX_BYTES {
            let expected = format!("expressions of at most {MAX_BYTES} bytes, counts like {{3}} written out");
            return Err((expected, format!("{} bytes or more", self.n_bytes)));
        }
        if self.n_look_arounds > MAX_LOOK_AROUNDS {
            let expected = format!("at most {MAX_LOOK_AROUNDS} look-arounds");
            return Err((expected, format!("{} or more", self.n_look_arounds)));
        }
        Ok(())
    }
}

/// How many times longer its counts may make an expression: as if each stood within all others.
///
/// Whatever could be a count is one here, wherever it stands; only the braces of `\p{L}` and `\x{1F600}` are not.
fn repeats(expression: &str) -> usize {
    let mut repeats = 1_usize;
    let mut rest = expression;
    while let Some(at) = rest.find(['\\', '{']) {
        let (_, after) = rest.split_at(at + 1);
        if rest.as_bytes()[at] == b'\\' {
            let mut letters = after.chars();
            let letter = letters.next();
            rest = letters.as_str();
            if matches!(letter, Some('p' | 'P' | 'x' | 'u' | 'U')) {
                rest = after_name(rest).unwrap_or(rest);
            }
            continue;
        }
        let (inside, after) = after.split_once('}').unwrap_or((after, ""));
        // Spaces may stand anywhere in it, and numbers too long for a `usize` are no small ones.
        let number = |text: &str| -> usize {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            if digits.is_empty() { 1 } else { digits.parse().unwrap_or(usize::MAX) }
        };
        repeats = repeats.saturating_mul(inside.split(',').map(number).max().unwrap_or(1).max(1));
        rest = after;
    }
    repeats
}

/// What follows `{L}`, `{Script=Han}` or `{1F600}`.
fn after_name(text: &str) -> Option<&str> {
    let (name, after) = text.strip_prefix('{')?.split_once('}')?;
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"^=_:&-. ".contains(&b)).then_some(after)
}

/// How many look-arounds an expression has at most.
fn look_arounds(expression: &str) -> usize {
    ["(?=", "(?!", "(?<"].iter().map(|opening| expression.matches(opening).count()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The expressions of published files that have the most of them, by model.
    #[rustfmt::skip]
    const PUBLISHED: [(&str, &[&str]); 10] = [
        ("gpt2", &[r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]),
        ("llama3", &[crate::tokenizer::split::LLAMA3_PUBLISHED]),
        ("qwen2", &[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]),
        ("deepseek-v3", &[
            r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        ]),
        ("deepseek-llm", &[
            r"[\r\n]",
            r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿDŽ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}+",
        ]),
        ("falcon", &[r"[0-9][0-9][0-9]"]),
        ("tekken", &[r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"]),
        ("gpt-4o", &[r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"]),
        ("superbpe", &[
            r"(?=(\d{3})+(?!\d))",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ]),
        ("fuyu", &[r"(?<!\n)^", r" {2,}"]),
    ];

    #[test]
    fn published_expressions_are_far_below_the_limits() {
        for (model, expressions) in PUBLISHED {
            let mut patterns = Patterns::default();
            for expression in expressions {
                assert_eq!(patterns.add(&json!({"Regex": expression})), Ok(()), "{model}: {expression}");
            }
            assert!(
                patterns.n_bytes < MAX_BYTES / 2 && patterns.n_look_arounds <= 5,
                "{model}: {patterns:?}"
            );
        }
    }

    #[test]
    fn counts_are_found_wherever_they_stand() {
        for (expression, found) in [
            (r"a{3}", 3),
            (r"(a{3}b{1,4}){5}", 60),
            (r"a{2,}b{,7}", 14),
            (r"\p{L}\P{N}[\p{Lu}]\x{1F600}\p{Script=Han}{1,3}", 3),
            (r"\\x{100}", 100),
            (r"\\\x{100}", 1),
            ("(?x)#\\x{\na{100}", 100),
            ("(?x)a{ 1 0 }", 10),
            (r"[{]5}", 5),
            (r"a{99999999999999999999}", usize::MAX),
            (r"{|}~{}", 1),
        ] {
            assert_eq!(repeats(expression), found, "{expression}");
        }
    }

    #[test]
    fn expressions_share_one_limit() {
        let add = |pattern: Value, n: usize| {
            let mut patterns = Patterns::default();
            (0..n).try_for_each(|_| patterns.add(&pattern))
        };
        assert_eq!(add(json!({"Regex": r"(?=\w{100})"}), 7), Ok(()));
        let (expected, found) = add(json!({"Regex": r"(?=\w{100})"}), 8).unwrap_err();
        assert_eq!(expected, "expressions of at most 8192 bytes, counts like {3} written out");
        assert_eq!(found, "8800 bytes or more");
        let many = r"(?=\w{100})".repeat(1000);
        assert!(add(json!({ "Regex": many }), 1).is_err());
        assert!(add(json!({"Regex": "a".repeat(8193)}), 1).is_err());
        assert!(add(json!({"String": "a".repeat(8193)}), 1).is_err());
        assert_eq!(add(json!({"String": "a{100}{100}(?="}), 33), Ok(()));
        let (expected, found) = add(json!({"Regex": "(?!a)(?<=b)"}), 17).unwrap_err();
        assert_eq!((&*expected, &*found), ("at most 32 look-arounds", "34 or more"));
    }
}
