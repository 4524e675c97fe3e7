//! Ternary weights in large pages of our own.

use std::sync::Arc;

use super::{Format, Matrix};
use crate::pages::Pages;
use crate::team::Team;

/// Where a matrix begins in the copy: a cache line.
const LINE: usize = 64;

/// Copies the codes of every ternary matrix of `matrices` that kernels read as the file has it, one after the other,
/// and gives the file's pages back. What was repacked has memory of its own already.
///
/// One block of memory for all, because large pages are lost at the end of each. Returns the bytes copied; where
/// there is no memory for them, nothing changes and that is 0.
pub(in crate::model) fn copy_ternary<'a>(
    matrices: impl Iterator<Item = &'a mut Matrix>,
    team: &Team,
) -> usize {
    let mut matrices: Vec<&mut Matrix> = matrices
        .filter(|m| matches!(m.format, Format::Ternary { .. }) && m.codes.repacked.is_none())
        .collect();
    let room = |m: &Matrix| m.n_codes().next_multiple_of(LINE);
    let n_bytes = matrices.iter().map(|m| room(m)).sum();
    let Some(mut pages) = Pages::<u8>::zeroed(n_bytes) else { return 0 };
    let mut rest = &mut pages[..];
    let mut items = Vec::with_capacity(matrices.len());
    for m in &matrices {
        let part = rest.split_off_mut(..room(m)).expect("room for every matrix");
        items.push((&**m, part));
    }
    team.enter(|| {
        team.each(items, |(m, part): (&Matrix, &mut [u8])| {
            part[..m.n_codes()].copy_from_slice(m.ternary().bytes());
            m.release();
        });
    });
    let pages = Arc::new(pages);
    let mut first = 0;
    for m in &mut matrices {
        m.copy = Some((Arc::clone(&pages), first));
        first += room(m);
    }
    n_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadOptions, Model, Placement};
    use crate::synth::{SynthOptions, SynthShape, write_synthetic};

    #[test]
    fn a_copy_holds_the_codes_of_the_file_each_matrix_on_a_cache_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write_synthetic(&path, &SynthOptions::new(SynthShape::Tiny), &mut |_, _| {}).unwrap();
        let load =
            |placement| Model::load(&path, &LoadOptions { placement, ..LoadOptions::default() }).unwrap();
        let (file, copy) = (load(Placement::Map), load(Placement::Copy));
        let pairs = file.weights().matrices().zip(copy.weights().matrices());
        let mut n = 0;
        for (a, b) in pairs.filter(|(a, _)| matches!(a.format(), Format::Ternary { .. })) {
            assert!(a.copy.is_none() && b.copy.is_some(), "{}", a.name());
            assert_eq!(a.ternary().bytes(), b.ternary().bytes(), "{}", a.name());
            assert_eq!(b.ternary().bytes().as_ptr() as usize % LINE, 0, "{}", a.name());
            assert_eq!(b.bytes(), a.bytes(), "{}: what was given back reads as before", a.name());
            n += 1;
        }
        assert_eq!(n, 7 * file.config().n_layer);
    }
}
