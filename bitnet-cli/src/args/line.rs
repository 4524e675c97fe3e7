//! One verb's command line, read left to right against the verb's flags.
//!
//! `pico-args` finds the verb (see the module above), but searches the whole line for each key: a prompt that
//! reads `-m` would be taken for the flag, and `--prompt='"a" or b'` would lose its quotes. Here an argument is
//! a flag only where a flag may stand, and a value is taken exactly as the shell passed it on.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crate::exit::Failure;

/// A flag of a verb.
pub(super) struct Flag {
    /// Every spelling; the last one is the name used by [`Line`]'s getters and in messages of our own.
    pub(super) names: &'static [&'static str],
    /// What follows it.
    pub(super) takes: Takes,
}

/// What follows a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing: it is there or not.
    Nothing,
    /// One value, once.
    One,
    /// One value, and the flag may come again.
    Many,
}

impl Flag {
    pub(super) const fn switch(names: &'static [&'static str]) -> Self {
        Flag { names, takes: Takes::Nothing }
    }

    pub(super) const fn one(names: &'static [&'static str]) -> Self {
        Flag { names, takes: Takes::One }
    }

    pub(super) const fn many(names: &'static [&'static str]) -> Self {
        Flag { names, takes: Takes::Many }
    }

    pub(super) fn name(&self) -> &'static str {
        self.names.last().expect("a flag has a name")
    }
}

/// The flags and words of one command line, every one of them known to the verb.
#[derive(Debug)]
pub(super) struct Line {
    /// (canonical name, spelling used, value or empty) in the order given.
    given: Vec<(&'static str, String, OsString)>,
    /// What is no flag.
    words: Vec<OsString>,
    /// `-h` or `--help` was met.
    pub(super) help: bool,
}

impl Line {
    /// Reads `args`, those after the verb. Refuses unknown flags, repeated ones and missing values.
    pub(super) fn read(verb: &str, flags: &'static [Flag], args: Vec<OsString>) -> Result<Self, Failure> {
        let mut line = Line { given: Vec::new(), words: Vec::new(), help: false };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (text, value) = split(&arg);
            if text == "--" && value.is_none() {
                line.words.extend(args.by_ref());
            } else if matches!(text, "-h" | "--help") && value.is_none() {
                line.help = true;
                break;
            } else if text.starts_with('-') && (text.len() > 1 || value.is_some()) {
                let flag = find(flags, text).ok_or_else(|| unknown(verb, flags, text))?;
                line.take(flag, text, value, &mut args)?;
            } else {
                line.words.push(arg);
            }
        }
        Ok(line)
    }

    fn take(
        &mut self,
        flag: &'static Flag,
        key: &str,
        value: Option<OsString>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Failure> {
        if flag.takes != Takes::Many && self.given.iter().any(|(name, ..)| *name == flag.name()) {
            return Err(Failure::misuse(key, "given twice, expected once"));
        }
        let value = match (flag.takes, value) {
            (Takes::Nothing, None) => OsString::new(),
            (Takes::Nothing, Some(_)) => return Err(Failure::misuse(key, "takes no value")),
            (_, Some(value)) => value,
            (_, None) => rest.next().ok_or_else(|| Failure::misuse(key, "expected a value after it"))?,
        };
        self.given.push((flag.name(), key.to_owned(), value));
        Ok(())
    }

    fn given(&self, name: &'static str) -> impl Iterator<Item = (&str, &OsStr)> {
        self.given.iter().filter(move |(n, ..)| *n == name).map(|(_, key, value)| (key.as_str(), &**value))
    }

    /// Whether the flag stands on the line.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.given(name).next().is_some()
    }

    /// A file name, which need not be UTF-8.
    pub(super) fn path(&self, name: &'static str) -> Result<Option<PathBuf>, Failure> {
        match self.given(name).next() {
            Some((key, value)) if value.is_empty() => Err(Failure::misuse(key, "expected a file name")),
            given => Ok(given.map(|(_, value)| PathBuf::from(value))),
        }
    }

    /// A value as text.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, Failure> {
        Ok(self.texts(name)?.pop())
    }

    /// Every value of a flag that may come again, in order.
    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<String>, Failure> {
        self.given(name)
            .map(|(key, value)| match value.to_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(Failure::misuse(key, "expected UTF-8 text")),
            })
            .collect()
    }

    /// A number within `range`; never clamped.
    pub(super) fn number<T>(&self, name: &'static str, range: RangeInclusive<T>) -> Result<Option<T>, Failure>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some((key, value)) = self.given(name).next() else { return Ok(None) };
        number(key, &value.to_string_lossy(), &range).map(Some)
    }

    /// Comma-separated numbers within `range`; at least one.
    pub(super) fn numbers<T>(
        &self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<Option<Vec<T>>, Failure>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some((key, value)) = self.given(name).next() else { return Ok(None) };
        let list = value.to_string_lossy();
        list.split(',').map(|item| number(key, item.trim(), &range)).collect::<Result<_, _>>().map(Some)
    }

    /// One of a fixed set of words.
    pub(super) fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Failure> {
        let Some((key, value)) = self.given(name).next() else { return Ok(None) };
        match choices.iter().find(|(word, _)| value == *word) {
            Some(&(_, choice)) => Ok(Some(choice)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                let what = format!("{key} {}", value.to_string_lossy().escape_debug());
                Err(Failure::misuse(&what, &format!("expected one of {}", words.join(", "))))
            }
        }
    }

    /// At most one word: the file a verb is about. `-` stays a word.
    #[cfg(feature = "full-cli")]
    pub(super) fn word(&self, what: &str) -> Result<Option<PathBuf>, Failure> {
        match &*self.words {
            [] => Ok(None),
            [word] if word.is_empty() => Err(Failure::misuse(what, "expected a file name, found nothing")),
            [word] => Ok(Some(PathBuf::from(word))),
            [_, surplus, ..] => Err(leftover(surplus)),
        }
    }

    /// Two words or none: the files a verb compares.
    #[cfg(feature = "full-cli")]
    pub(super) fn two_words(&self, what: &str) -> Result<Option<[PathBuf; 2]>, Failure> {
        match &*self.words {
            words if words.iter().any(|word| word.is_empty()) => {
                Err(Failure::misuse(what, "expected a file name, found nothing"))
            }
            [] | [_] => Ok(None),
            [a, b] => Ok(Some([PathBuf::from(a), PathBuf::from(b)])),
            [_, _, surplus, ..] => Err(leftover(surplus)),
        }
    }

    /// Refuses words, for verbs that have only flags.
    pub(super) fn no_words(&self) -> Result<(), Failure> {
        self.words.first().map_or(Ok(()), |word| Err(leftover(word)))
    }

    /// Refuses `--force` without the flag `name`, whose file it overwrites.
    #[cfg(feature = "full-cli")]
    pub(super) fn force_belongs_to(&self, name: &'static str) -> Result<(), Failure> {
        if !self.has("--force") || self.has(name) {
            return Ok(());
        }
        Err(Failure::misuse("--force", &format!("belongs to {name}; expected {name} FILE with it")))
    }

    /// Refuses more than one of `names`, which mean the same thing in different ways.
    pub(super) fn at_most_one(&self, names: &[&'static str]) -> Result<(), Failure> {
        let given: Vec<&str> =
            self.given.iter().filter(|(name, ..)| names.contains(name)).map(|(_, key, _)| &**key).collect();
        match &*given {
            [first, second, ..] => {
                Err(Failure::misuse(&format!("{first} and {second}"), "expected one of them, not both"))
            }
            _ => Ok(()),
        }
    }
}

fn number<T>(key: &str, text: &str, range: &RangeInclusive<T>) -> Result<T, Failure>
where
    T: FromStr + PartialOrd + Display,
{
    match text.parse::<T>() {
        Ok(number) if range.contains(&number) => Ok(number), // NaN is in no range
        _ => {
            let what = format!("{key} {}", text.escape_debug());
            Err(Failure::misuse(
                &what,
                &format!("expected a number from {} to {}", range.start(), range.end()),
            ))
        }
    }
}

/// A flag and its value, if an equal sign stands between them. Only the flag has to be text: file names need not.
fn split(arg: &OsStr) -> (&str, Option<OsString>) {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = arg.as_bytes();
        if let Some(at) = bytes.iter().position(|&byte| byte == b'=').filter(|_| bytes.starts_with(b"-"))
            && let Ok(key) = str::from_utf8(&bytes[..at])
        {
            return (key, Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()));
        }
    }
    let text = arg.to_str().unwrap_or_default();
    match text.split_once('=').filter(|_| text.starts_with('-')) {
        Some((key, value)) => (key, Some(value.into())),
        None => (text, None),
    }
}

fn find(flags: &'static [Flag], key: &str) -> Option<&'static Flag> {
    flags.iter().find(|flag| flag.names.contains(&key))
}

fn leftover(word: &OsStr) -> Failure {
    let what = word.to_string_lossy().escape_debug().to_string();
    Failure::misuse(&what, "unexpected word; a value follows its flag, and text with spaces needs quotes")
}

/// Names the flag, the nearest one that exists, and where all of them are listed.
fn unknown(verb: &str, flags: &'static [Flag], key: &str) -> Failure {
    let near = flags
        .iter()
        .flat_map(|flag| flag.names)
        .filter(|name| name.starts_with("--") && key.starts_with("--"))
        .map(|name| (distance(name, key), name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let hint = near.map_or_else(String::new, |(_, name)| format!("did you mean {name}? "));
    let what = key.escape_debug().to_string();
    Failure::misuse(&what, &format!("no such flag; {hint}`bitnet {verb} --help` lists those there are"))
}

/// Letters to insert, delete or replace between two words (Levenshtein), one row of the table at a time.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::one(&["-m", "--model"]),
        Flag::one(&["-p", "--prompt"]),
        Flag::one(&["--top-p"]),
        Flag::one(&["--tokens"]),
        Flag::many(&["--stop"]),
        Flag::switch(&["--greedy"]),
    ];

    fn read(args: &[&str]) -> Result<Line, Failure> {
        Line::read("run", FLAGS, args.iter().map(OsString::from).collect())
    }

    fn refusal<T>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Misuse(sentence)) => sentence,
            Err(other) => panic!("expected a usage error, got {other:?}"),
            Ok(_) => panic!("expected a usage error, got a value"),
        }
    }

    #[test]
    fn a_value_is_never_taken_for_a_flag() {
        let line = read(&["-p", "-m", "-m", "--greedy"]).unwrap();
        assert_eq!(line.text("--prompt").unwrap().unwrap(), "-m");
        assert_eq!(line.path("--model").unwrap().unwrap(), PathBuf::from("--greedy"));
        assert!(!line.has("--greedy"));
    }

    #[test]
    fn values_keep_quotes_equal_signs_and_emptiness() {
        for (args, value) in [
            (&["--prompt=\"a\" or b"][..], "\"a\" or b"),
            (&["-p=2+2="], "2+2="),
            (&["-p", ""], ""),
            (&["--prompt="], ""),
        ] {
            assert_eq!(read(args).unwrap().text("--prompt").unwrap().unwrap(), value);
        }
    }

    #[test]
    fn repeats_are_refused_unless_the_flag_is_a_list() {
        assert_eq!(refusal(read(&["-p", "a", "--prompt", "b"])), "--prompt: given twice, expected once");
        assert_eq!(refusal(read(&["--greedy", "--greedy"])), "--greedy: given twice, expected once");
        let line = read(&["--stop", "a", "--stop=b"]).unwrap();
        assert_eq!(line.texts("--stop").unwrap(), ["a", "b"]);
    }

    #[test]
    fn an_unknown_flag_is_named_with_its_neighbour() {
        let sentence = refusal(read(&["--promt", "x"]));
        assert!(sentence.starts_with("--promt: no such flag; did you mean --prompt? "), "{sentence}");
        assert!(!refusal(read(&["--what"])).contains("did you mean"));
        assert!(refusal(read(&["-x"])).starts_with("-x: no such flag"));
    }

    #[test]
    fn numbers_outside_their_range_are_refused_not_clamped() {
        for bad in ["1.5", "-0.1", "NaN", "inf", "x", ""] {
            let line = read(&["--top-p", bad]).unwrap();
            let sentence = refusal(line.number("--top-p", 0.0..=1.0));
            assert_eq!(sentence, format!("--top-p {bad}: expected a number from 0 to 1"));
        }
        let line = read(&["--top-p", "0.5"]).unwrap();
        assert_eq!(line.number("--top-p", 0.0..=1.0).unwrap(), Some(0.5));
    }

    #[test]
    fn lists_name_the_item_that_is_wrong() {
        let line = read(&["--tokens", "1, 2,x"]).unwrap();
        assert_eq!(refusal(line.numbers("--tokens", 0..=9u32)), "--tokens x: expected a number from 0 to 9");
        let line = read(&["--tokens", "1, 2,3"]).unwrap();
        assert_eq!(line.numbers("--tokens", 0..=9u32).unwrap().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn words_end_flags_and_leftovers_are_refused() {
        let line = read(&["--", "--greedy"]).unwrap();
        assert!(refusal(line.no_words()).starts_with("--greedy: unexpected word"));
        assert!(refusal(read(&["--greedy=1"])).contains("takes no value"));
        assert_eq!(refusal(read(&["-p"])), "-p: expected a value after it");
    }

    #[test]
    fn distance_counts_single_letter_edits() {
        assert_eq!(distance("--prompt", "--promt"), 1);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
