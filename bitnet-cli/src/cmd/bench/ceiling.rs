//! What the machine could do at most, beside what a row did.
//!
//! Decode is bound by memory, prefill by multiplications. Both ceilings are probed before the rows and again after
//! them, and the higher reading counts: on a shared machine a single one may have met a slow moment.

use std::collections::BTreeMap;

use bitnet_core::probe;

use super::row::{Row, Test};
use crate::exit::{Failure, complain};

/// Weights smaller than this may live in a cache: the speed of memory says nothing about them.
const MEMORY_BOUND: u64 = 128 << 20;

/// What a number of threads could do at most, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::cmd) struct Ceiling {
    /// Bytes read from memory.
    pub(in crate::cmd) bytes: f64,
    /// Multiply-adds of int8.
    pub(in crate::cmd) macs: f64,
}

impl Ceiling {
    /// Probes, if a token goes through enough bytes to be bound by memory.
    pub(in crate::cmd) fn probe(n_threads: usize, bytes_per_token: u64) -> Result<Option<Self>, Failure> {
        if bytes_per_token < MEMORY_BOUND {
            return Ok(None);
        }
        let (bytes, macs) = (probe::read_bandwidth(n_threads)?, probe::multiply_rate(n_threads)?);
        Ok(Some(Ceiling { bytes, macs }))
    }
}

/// Ceilings by thread count; none of a model that is not bound by them.
#[derive(Debug, Default)]
pub(super) struct Ceilings(BTreeMap<usize, Ceiling>);

impl Ceilings {
    /// Probes for every thread count of `rows`: see [`Ceiling::probe`].
    pub(super) fn probe(&mut self, rows: &[Row], bytes_per_token: u64) -> Result<(), Failure> {
        let mut counts: Vec<usize> = rows.iter().map(|row| row.n_threads).collect();
        counts.sort_unstable();
        counts.dedup();
        for n_threads in counts {
            let Some(found) = Ceiling::probe(n_threads, bytes_per_token)? else { continue };
            let known = self.0.entry(n_threads).or_default();
            known.bytes = known.bytes.max(found.bytes);
            known.macs = known.macs.max(found.macs);
        }
        Ok(())
    }

    /// Of these threads, if probed.
    pub(super) fn of(&self, n_threads: usize) -> Option<Ceiling> {
        self.0.get(&n_threads).copied()
    }

    /// Percent of its ceiling that the row's median sample reached.
    pub(super) fn percent(&self, row: &Row) -> Option<f64> {
        let ceiling = self.of(row.n_threads)?;
        let (rate, most) = match row.test {
            Test::Prefill(_) => (row.gmac_per_s()?, ceiling.macs),
            Test::Decode(_) => (row.gb_per_s()?, ceiling.bytes),
        };
        Some(rate * 1e9 / most * 100.0)
    }

    /// Refuses rows that were faster than the machine can be.
    pub(super) fn check(&self, rows: &[Row]) -> Result<(), Failure> {
        for row in rows {
            let Some(percent) = self.percent(row).filter(|&percent| percent > 100.0) else {
                continue;
            };
            complain(&format!(
                "{} with {} threads: {percent:.1} % of what this machine was measured to be able to do: an error of \
                 measuring, so nothing is reported; expected at most 100 %, on a machine that is less busy",
                row.name(),
                row.n_threads
            ));
            return Err(Failure::Said(5));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::example;
    use super::*;

    /// A median of 200 tok/s at 1 MB a token is 0.2 GB/s; 100 tok/s at 2 MMAC a token is 0.2 GMAC/s.
    fn ceilings(bytes: f64, macs: f64) -> Ceilings {
        Ceilings([(1, Ceiling { bytes, macs })].into())
    }

    #[test]
    fn decode_is_held_against_memory_and_prefill_against_multiplications() {
        let (rows, _) = example();
        let percent = |row: usize| ceilings(0.8e9, 0.4e9).percent(&rows[row]).unwrap();
        assert_eq!([percent(0), percent(1)].map(f64::round), [50.0, 25.0]);
        assert_eq!(Ceilings::default().percent(&rows[0]), None);
    }

    #[test]
    fn more_than_all_is_refused() {
        let (rows, _) = example();
        assert!(ceilings(0.21e9, 0.21e9).check(&rows).is_ok());
        for (bytes, macs) in [(0.19e9, 0.21e9), (0.21e9, 0.19e9)] {
            assert!(matches!(ceilings(bytes, macs).check(&rows), Err(Failure::Said(5))));
        }
        assert!(Ceilings::default().check(&rows).is_ok());
    }

    #[test]
    fn a_model_that_fits_a_cache_is_not_probed_for() {
        let (rows, _) = example();
        let mut ceilings = Ceilings::default();
        ceilings.probe(&rows, MEMORY_BOUND - 1).unwrap();
        assert_eq!(ceilings.of(1), None);
    }
}
