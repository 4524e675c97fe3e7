//! Finding named tokens in text: the leftmost, and of those that start there the longest.
//!
//! A search that reads forwards knows the longest name only once all longer ones have failed, and reads what they led
//! it through again: a name of n bytes may cost n readings of every byte. This one reads backwards, with the automaton
//! of Aho and Corasick (1975) over the names spelt backwards. Having read down to a byte it knows the longest name that
//! starts there, whatever follows, so it reads every byte at most twice. The `aho-corasick` crate searches forwards for
//! the longest name, or backwards for all of them, the shorter ones at every place included.

use std::ops::Range;

use ahash::AHashMap;

/// Most bytes of all names together. The automaton of that many takes some 40 MB.
pub(super) const MAX_NAMED_BYTES: usize = 1 << 20;
/// Bytes that are looked at before the names in them are given out, or as many as the longest name has.
const BLOCK: usize = 1 << 16;
/// The state in which nothing was read that ends a name.
const ROOT: u32 = 0;

/// Names to look for. A state is what was read last, as far as a name ends in it.
#[derive(Debug)]
pub(super) struct Names {
    /// State and byte before it to the state with that byte.
    edges: AHashMap<(u32, u8), u32>,
    /// By state: the next shorter one.
    shorter: Vec<u32>,
    /// By state: bytes of the longest name that it starts with, or 0.
    lens: Vec<usize>,
    longest: usize,
}

impl Names {
    /// Names of [`MAX_NAMED_BYTES`] together; empty ones are found nowhere.
    pub(super) fn new(texts: &[&str]) -> Names {
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut names = Names { edges: AHashMap::new(), shorter: vec![ROOT], lens: vec![0], longest };
        // State, the one it continues, and by which byte: those of one byte first, then those of two.
        let mut states = Vec::new();
        let mut ends: Vec<(&[u8], u32)> = texts.iter().map(|text| (text.as_bytes(), ROOT)).collect();
        for n_read in 1..=longest {
            ends.retain(|(text, _)| text.len() >= n_read);
            for (text, state) in &mut ends {
                let byte = text[text.len() - n_read];
                let next = names.shorter.len() as u32;
                let new = *names.edges.entry((*state, byte)).or_insert(next);
                if new == next {
                    names.shorter.push(ROOT);
                    names.lens.push(0);
                    states.push((new, *state, byte));
                }
                if text.len() == n_read {
                    names.lens[new as usize] = n_read;
                }
                *state = new;
            }
        }
        for (state, before, byte) in states {
            let shorter =
                if before == ROOT { ROOT } else { names.step(names.shorter[before as usize], byte) };
            names.shorter[state as usize] = shorter;
            if names.lens[state as usize] == 0 {
                names.lens[state as usize] = names.lens[shorter as usize];
            }
        }
        names
    }

    /// The state after one more byte.
    fn step(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            match self.edges.get(&(state, byte)) {
                Some(&next) => return next,
                None if state == ROOT => return ROOT,
                None => state = self.shorter[state as usize],
            }
        }
    }

    /// Where names stand in `text`, in its order and without overlaps.
    pub(super) fn find_iter<'a>(&'a self, text: &'a str) -> Found<'a> {
        Found { names: self, text: text.as_bytes(), looked: 0, done: 0, starts: Vec::new() }
    }
}

/// The names in a text.
pub(super) struct Found<'a> {
    names: &'a Names,
    text: &'a [u8],
    /// Where the next block starts.
    looked: usize,
    /// Where the last name that was given out ends.
    done: usize,
    /// Where names start in this block and how long they are, the last one first.
    starts: Vec<(usize, usize)>,
}

impl Found<'_> {
    /// Finds all names that start in `block`.
    fn look(&mut self, block: Range<usize>) {
        let mut state = ROOT;
        let end = self.text.len().min(block.end + self.names.longest);
        for at in (block.start..end).rev() {
            state = self.names.step(state, self.text[at]);
            let len = self.names.lens[state as usize];
            if len > 0 && at < block.end {
                self.starts.push((at, len));
            }
        }
    }
}

impl Iterator for Found<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            while let Some((start, len)) = self.starts.pop() {
                if start >= self.done {
                    self.done = start + len;
                    return Some(start..self.done);
                }
            }
            let start = self.looked.max(self.done);
            if start == self.text.len() {
                return None;
            }
            self.looked = self.text.len().min(start + self.names.longest.max(BLOCK));
            self.look(start..self.looked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`Names::find_iter`] finds, by trying every name everywhere.
    fn tried(names: &[&str], text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let starts = |name: &&&str| text.as_bytes()[at..].starts_with(name.as_bytes());
            match names.iter().filter(starts).map(|name| name.len()).max() {
                None | Some(0) => at += 1,
                Some(len) => {
                    found.push(at..at + len);
                    at += len;
                }
            }
        }
        found
    }

    fn agree(names: &[&str], text: &str) {
        let found: Vec<Range<usize>> = Names::new(names).find_iter(text).collect();
        assert!(found == tried(names, text), "{names:?} in {} bytes", text.len());
    }

    #[test]
    fn the_leftmost_name_is_found_and_of_those_the_longest() {
        let names = ["ab", "abc", "bcd", "", "b", "é", "ab"];
        let found: Vec<Range<usize>> = Names::new(&names).find_iter("xabcdabbcdéa").collect();
        assert_eq!(found, [1..4, 5..7, 7..10, 10..12]);
        assert_eq!(Names::new(&[]).find_iter("abc").count(), 0);
        assert_eq!(Names::new(&["a"]).find_iter("").count(), 0);
    }

    #[test]
    fn names_are_found_wherever_trying_all_of_them_finds_them() {
        let mut state = 1_u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for _ in 0..3000 {
            let mut word =
                |n: usize| -> String { (0..below(n)).map(|_| ['a', 'b', 'é'][below(3)]).collect() };
            let names: Vec<String> = (0..6).map(|_| word(7)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            agree(&names, &word(60));
        }
    }

    #[test]
    fn names_may_lie_across_blocks_and_fill_several() {
        let long = "a".repeat(2 * BLOCK + 1);
        for n in [BLOCK - 2, BLOCK - 1, BLOCK, 2 * BLOCK] {
            agree(&["abc", "c"], &format!("{}abcabc", "x".repeat(n)));
            agree(&["aaa", "b"], &format!("{}b", "a".repeat(n)));
            agree(&[&long, "b"], &format!("{}{long}b{long}", "b".repeat(n % 7)));
        }
    }
}
