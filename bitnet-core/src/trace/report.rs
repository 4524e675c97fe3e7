//! The table behind a profile: every site's sums over all threads.

use std::collections::BTreeMap;

use super::{Row, clock, lane, span};

/// What was counted since [`profile`](super::profile), longest own time first.
#[must_use]
pub fn report() -> Vec<Row> {
    let lanes = lane::lanes();
    let mut rows: BTreeMap<(&str, &str), [u64; 5]> = BTreeMap::new();
    for (index, site) in span::sites().into_iter().enumerate() {
        // Sites of one name in one module, as methods of two types are, share a row.
        let sums = rows.entry((site.module, site.name)).or_default();
        for lane in &lanes {
            for (sum, more) in sums.iter_mut().zip(lane.sums(index)) {
                *sum = sum.wrapping_add(more);
            }
        }
    }
    let mut rows: Vec<Row> = rows
        .into_iter()
        .filter(|(_, sums)| sums[0] > 0)
        .map(|((module, name), [calls, ticks, own, bytes, macs])| Row {
            name,
            module,
            calls,
            total: clock::length(ticks),
            own: clock::length(own),
            bytes,
            macs,
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.own));
    rows
}
