//! Merging neighbours, best pair first: the loop that byte-level BPE and SentencePiece share.
//!
//! Both start from the smallest symbols and repeatedly merge the best adjacent pair, leftmost first among
//! equals; they differ in what "best" means, which the caller's `find` says. The `tokenizers` crate has
//! such a loop for ranks only, and makes a `String` for every token; ours takes any key and allocates
//! nothing once warm. A run of n symbols costs O(n log n) time and about 40 n bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No neighbour on that side.
const NONE: u32 = u32::MAX;

/// A stretch `start..end` of the text, currently one symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// The caller's number for it.
    pub(super) id: u32,
    pub(super) start: u32,
    /// Equal to `start` once the symbol was swallowed by its left neighbour.
    pub(super) end: u32,
    prev: u32,
    next: u32,
}

/// A possible merge, ordered by key, then position: `(key, left symbol, merged length, new id)`.
type Candidate = (u32, u32, u32, u32);

/// The symbols of one word and the queue of their possible merges; reused from word to word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the last word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol that ends at byte `end` of the text; it starts where the last one ended.
    pub(super) fn push(&mut self, id: u32, end: u32) {
        let index = self.symbols.len() as u32;
        let (prev, start) = match self.symbols.last_mut() {
            Some(last) => {
                last.next = index;
                (index - 1, last.end)
            }
            None => (NONE, 0),
        };
        self.symbols.push(Symbol { id, start, end, prev, next: NONE });
    }

    /// Merges until `find` knows no adjacent pair. `find` gives a pair's key, the lowest being merged
    /// first, and the merged symbol's id; both may depend on nothing but the two stretches of text.
    pub(super) fn merge(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for left in 0..self.symbols.len() {
            self.propose(left as u32, &find);
        }
        while let Some(Reverse((_, index, len, id))) = self.queue.pop() {
            let left = self.symbols[index as usize];
            if left.start == left.end || left.next == NONE {
                continue;
            }
            let right = self.symbols[left.next as usize];
            // Symbols only grow, so an equal length proves that neither half has changed since.
            if right.end - left.start != len {
                continue;
            }
            self.symbols[left.next as usize].end = right.start;
            self.symbols[index as usize] = Symbol { id, end: right.end, next: right.next, ..left };
            if right.next != NONE {
                self.symbols[right.next as usize].prev = index;
            }
            self.propose(index, &find);
            if left.prev != NONE {
                self.propose(left.prev, &find);
            }
        }
    }

    fn propose(&mut self, index: u32, find: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let left = self.symbols[index as usize];
        if left.next == NONE {
            return;
        }
        let right = self.symbols[left.next as usize];
        if let Some((key, id)) = find(&left, &right) {
            self.queue.push(Reverse((key, index, right.end - left.start, id)));
        }
    }

    /// What is left, in the order of the text.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.start != symbol.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges `text` by `rules`: pairs of texts, best first.
    fn merged(text: &str, rules: &[(&str, &str)]) -> Vec<String> {
        let mut merger = Merger::default();
        for end in 1..=text.len() {
            merger.push(0, end as u32);
        }
        let slice = |s: &Symbol| &text[s.start as usize..s.end as usize];
        merger.merge(|l, r| {
            let rank = rules.iter().position(|&(a, b)| a == slice(l) && b == slice(r))?;
            Some((rank as u32, 0))
        });
        merger.symbols().map(|s| slice(s).to_owned()).collect()
    }

    #[test]
    fn the_best_pair_goes_first_and_the_leftmost_among_equals() {
        assert_eq!(merged("abc", &[("b", "c"), ("a", "b")]), ["a", "bc"]);
        assert_eq!(merged("aaaaa", &[("a", "a"), ("aa", "aa")]), ["aaaa", "a"]);
        assert_eq!(merged("aaa", &[("a", "a")]), ["aa", "a"]);
    }

    #[test]
    fn a_queued_pair_whose_half_was_taken_is_dropped() {
        // (a,b) waits in the queue while (b,c) is merged away under it.
        assert_eq!(merged("abcd", &[("b", "c"), ("a", "b"), ("bc", "d")]), ["a", "bcd"]);
        assert_eq!(merged("", &[("a", "b")]), Vec::<String>::new());
    }
}
