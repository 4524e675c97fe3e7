//! Ternary weights in large pages of our own: by rows, four or five to a byte, and by columns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Format, Matrix, Scale};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::Placement;
use crate::model::operand::{Norm, Operand, Wants};
use crate::pages::Pages;
use crate::quant::columns::column_bytes;
use crate::quant::i2s::BLOCK;
use crate::quant::tri5;
use crate::team::{Piece, Share, Team};

/// Every matrix begins with a cache line of the memory that all share.
const LINE: usize = 64;

/// Weights that are worth copying: fewer stay in a cache from token to token.
const MANY_BYTES: usize = 64 << 20;

/// Where a copy of a matrix lies.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Shared by all matrices.
    pages: Arc<Pages<u8>>,
    /// Where this one begins.
    first: usize,
    packing: Packing,
}

/// How weights lie in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Row after row, four to a byte.
    Four,
    /// Row after row, five to a byte.
    Five,
    /// Column after column, four to a byte.
    Columns,
}

impl Packing {
    /// What one thread packs at a time: how many of the matrix's rows, or columns, and their bytes.
    fn strip(self, m: &Matrix) -> (usize, usize) {
        const ROWS: usize = 256;
        let cols = m.cols.next_multiple_of(BLOCK);
        match self {
            Packing::Four => (ROWS, ROWS * (cols / 4)),
            Packing::Five => (ROWS, ROWS * tri5::row_bytes(cols)),
            Packing::Columns => (BLOCK, BLOCK * column_bytes(m.rows)),
        }
    }

    /// Bytes of the whole matrix.
    fn n_bytes(self, m: &Matrix) -> usize {
        let (n, bytes) = self.strip(m);
        match self {
            Packing::Four | Packing::Five => m.rows * (bytes / n),
            Packing::Columns => m.cols.next_multiple_of(BLOCK) * (bytes / n),
        }
    }
}

impl Place {
    pub(super) fn packing(&self) -> Packing {
        self.packing
    }

    /// Its `n` bytes.
    pub(super) fn bytes(&self, n: usize) -> &[u8] {
        &self.pages[self.first..][..n]
    }
}

/// Puts the ternary matrices among `matrices` where `placement` says, and gives the file's pages back. A matrix whose
/// input is mostly zeros also gets a copy by columns. Returns what became of `Auto`, or of another that needed more memory
/// than there is.
///
/// `Auto` copies nothing if a cache holds all weights, if the file is not `mapped`, or outside Linux; otherwise it
/// measures which packing `n_threads` threads multiply faster here. Without memory for copies, nothing changes.
///
/// # Errors
/// If the threads cannot be had.
pub(in crate::model) fn place<'a>(
    matrices: impl Iterator<Item = &'a mut Matrix>,
    placement: Placement,
    mapped: bool,
    n_threads: Option<usize>,
    kernels: &Kernels,
) -> Result<Placement> {
    let mut matrices: Vec<&mut Matrix> =
        matrices.filter(|m| matches!(m.format, Format::Ternary { scale: Scale::One(_), .. })).collect();
    let sample = sample(&matrices).filter(|_| mapped && cfg!(target_os = "linux"));
    if placement == Placement::Map || placement == Placement::Auto && sample.is_none() {
        return Ok(Placement::Map);
    }
    let team = Team::new(n_threads)?;
    let packing = match (placement, sample) {
        (Placement::Auto, Some(n)) => faster(&mut matrices[..n], &team, kernels),
        (Placement::Tri5, _) => Packing::Five,
        _ => Packing::Four,
    };
    put_columns(&mut matrices, &team, kernels); // first, while the weights are still four to a byte
    let placed = put(&mut matrices, packing, &team, kernels);
    matrices.iter_mut().filter(|m| m.columns.is_some()).for_each(|m| m.kernel.push_str("+columns"));
    Ok(match packing {
        _ if !placed => Placement::Map,
        Packing::Five => Placement::Tri5,
        Packing::Four | Packing::Columns => Placement::Copy,
    })
}

/// How many of the first matrices are more than a cache holds; `None` if all of them together are not.
fn sample(matrices: &[&mut Matrix]) -> Option<usize> {
    let mut n_bytes = 0;
    let end = matrices.iter().position(|m| {
        n_bytes += m.n_codes();
        n_bytes >= MANY_BYTES
    })?;
    Some(end + 1)
}

/// The packing in which a product with each of `matrices` takes less time, both tried in turn.
fn faster(matrices: &mut [&mut Matrix], team: &Team, kernels: &Kernels) -> Packing {
    const ROUNDS: usize = 3;
    let mut best = [Duration::MAX; 2];
    let packings = [Packing::Four, Packing::Five];
    let places = packings.map(|packing| packed(matrices, packing, team, kernels));
    let Some(places) = places.into_iter().collect::<Option<Vec<_>>>() else { return Packing::Four };
    let (mut x, mut y) = (Operand::default(), Vec::new());
    for _ in 0..ROUNDS {
        for (places, best) in places.iter().zip(&mut best) {
            for (m, place) in matrices.iter_mut().zip(places) {
                m.place = Some(place.clone());
            }
            let start = Instant::now();
            team.enter(|| {
                for m in &*matrices {
                    x.load(
                        team,
                        kernels,
                        &vec![1.0; m.cols],
                        Norm::None,
                        m.cols,
                        Wants { int8: true, ..Wants::default() },
                    );
                    y.resize(m.rows, 0.0);
                    let x = &x;
                    team.split([Share { values: &mut y, unit: 1 }], |[y]: [Piece<'_>; 1]| {
                        m.multiply_vector(kernels, y, x);
                    });
                }
            });
            *best = start.elapsed().min(*best);
        }
    }
    for m in matrices {
        m.place = None;
    }
    if best[1] < best[0] { Packing::Five } else { Packing::Four }
}

/// Copies by columns those of `matrices` whose input is mostly zeros, if there is memory for them.
fn put_columns(matrices: &mut [&mut Matrix], team: &Team, kernels: &Kernels) {
    let mut sparse: Vec<&mut &mut Matrix> = matrices.iter_mut().filter(|m| m.sparse).collect();
    let views: Vec<&Matrix> = sparse.iter().map(|m| &***m).collect();
    let Some(places) = packed(&views, Packing::Columns, team, kernels) else { return };
    for (m, place) in sparse.iter_mut().zip(places) {
        m.columns = Some(place);
    }
}

/// Copies all of `matrices`, if there is memory for them, but for those that were repacked at load to the same packing: they
/// stay where they are.
fn put(matrices: &mut [&mut Matrix], packing: Packing, team: &Team, kernels: &Kernels) -> bool {
    let mut matrices: Vec<&mut &mut Matrix> =
        matrices.iter_mut().filter(|m| packing == Packing::Five || m.codes.repacked.is_none()).collect();
    let views: Vec<&Matrix> = matrices.iter().map(|m| &***m).collect();
    let Some(places) = packed(&views, packing, team, kernels) else { return false };
    for (m, place) in matrices.iter_mut().zip(places) {
        m.place = Some(place);
        m.codes.repacked = None;
        m.release();
        if packing == Packing::Five {
            kernels.tri5_name().clone_into(&mut m.kernel);
        }
    }
    true
}

/// Copies of `matrices` in this packing, one after the other; `None` if there is no memory for them.
///
/// All share one block of memory, because the end of a block does not fill a large page.
fn packed<M: std::ops::Deref<Target = Matrix> + Sync>(
    matrices: &[M],
    packing: Packing,
    team: &Team,
    kernels: &Kernels,
) -> Option<Vec<Place>> {
    let room = |m: &Matrix| packing.n_bytes(m).next_multiple_of(LINE);
    let mut pages = Pages::<u8>::zeroed(matrices.iter().map(|m| room(m)).sum())?;
    let mut rest = &mut pages[..];
    let mut strips = Vec::new();
    for m in matrices {
        let (n, bytes) = packing.strip(m);
        let part = rest.split_off_mut(..room(m)).expect("room for every matrix");
        let part = &mut part[..packing.n_bytes(m)];
        strips.extend(part.chunks_mut(bytes).enumerate().map(|(i, part)| (&**m, i * n, part)));
    }
    team.enter(|| {
        team.each(strips, |(m, first, part): (&Matrix, usize, &mut [u8])| {
            let row_bytes = packing.n_bytes(m) / m.rows;
            match packing {
                Packing::Four => {
                    part.copy_from_slice(m.ternary().slice(first, part.len() / row_bytes).bytes());
                }
                Packing::Five => {
                    for (r, row) in (first..).zip(part.chunks_exact_mut(row_bytes)) {
                        kernels.pack_tri5(row, m.ternary().row(r));
                    }
                }
                Packing::Columns => kernels.pack_columns(part, m.ternary(), first),
            }
        });
    });
    let pages = Arc::new(pages);
    let mut first = 0;
    let places = matrices.iter().map(|m| {
        let place = Place { pages: Arc::clone(&pages), first, packing };
        first += room(m);
        place
    });
    Some(places.collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Packed;
    use super::*;
    use crate::model::{LoadOptions, Model};
    use crate::synth::{SynthOptions, SynthShape, write_synthetic};

    /// A small model, on the disk for as long as the folder is.
    fn tiny() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write_synthetic(&path, &SynthOptions::new(SynthShape::Tiny), &mut |_, _| true).unwrap();
        (folder, path)
    }

    #[test]
    fn what_is_placed_holds_the_codes_of_the_file_each_matrix_on_a_cache_line() {
        let (_folder, path) = tiny();
        let load =
            |placement| Model::load(&path, &LoadOptions { placement, ..LoadOptions::default() }).unwrap();
        let file = load(Placement::Map);
        assert_eq!([file.placement(), load(Placement::Auto).placement()], [Placement::Map; 2], "it is small");
        for placement in [Placement::Copy, Placement::Tri5] {
            let model = load(placement);
            assert_eq!(model.placement(), placement);
            let pairs = file.weights().matrices().zip(model.weights().matrices());
            let mut n = 0;
            for (a, b) in pairs.filter(|(a, _)| matches!(a.format(), Format::Ternary { .. })) {
                assert!(a.place.is_none(), "{}", a.name());
                let address = match b.packed() {
                    Packed::Four(w) => {
                        assert_eq!(
                            (placement, w.bytes()),
                            (Placement::Copy, a.ternary().bytes()),
                            "{}",
                            a.name()
                        );
                        w.bytes().as_ptr()
                    }
                    Packed::Five(w) => {
                        assert_eq!(placement, Placement::Tri5);
                        for r in 0..a.rows() {
                            let mut back = vec![0; a.row_bytes()];
                            tri5::unpack_row(&mut back, w.row(r));
                            assert_eq!(back, a.ternary().row(r), "{} row {r}", a.name());
                        }
                        w.bytes().as_ptr()
                    }
                };
                assert_eq!(address as usize % LINE, 0, "{}", a.name());
                assert_eq!(b.bytes(), a.bytes(), "{}: what was given back reads as before", a.name());
                n += 1;
            }
            assert_eq!(n, 7 * file.config().n_layer);
        }
    }

    #[test]
    fn the_threads_that_place_are_those_asked_for() {
        let (_folder, path) = tiny();
        let options =
            LoadOptions { placement: Placement::Copy, n_threads: Some(0), ..LoadOptions::default() };
        let error = Model::load(&path, &options).unwrap_err().to_string();
        assert!(error.starts_with("--threads: expected 1 to 1024"), "{error}");
    }

    #[test]
    fn either_packing_may_be_the_faster_one_and_nothing_stays_from_trying() {
        let (_folder, path) = tiny();
        let options = LoadOptions { placement: Placement::Map, ..LoadOptions::default() };
        let mut model = Model::load(&path, &options).unwrap();
        let kernels = model.kernels();
        let team = Team::new(Some(2)).unwrap();
        let mut matrices: Vec<&mut Matrix> = model.weights_mut().ternary_mut().collect();
        assert_eq!(sample(&matrices), None, "a small model is left where it is");
        faster(&mut matrices, &team, kernels);
        assert!(matrices.iter().all(|m| m.place.is_none()));
    }
}
