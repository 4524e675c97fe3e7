//! The place of a file that is to be written: looked at before anything is computed for it.
//!
//! What appears there in the meantime is noticed when the file is put there; see [`Target`].

use std::path::{Path, PathBuf};

use bitnet_core::gguf::Target;

use crate::exit::Failure;

/// Refuses a place where no file can go; `what` names it in the sentence.
pub(crate) fn check(what: &str, path: &Path, force: bool) -> Result<(), Failure> {
    refuse(what, unfit(path, (!force).then_some("the file exists (--force overwrites it)")))
}

/// The same for what is written only when everything is computed: a missing folder would be noticed then.
pub(crate) fn check_late(what: &str, path: &Path, force: bool, taken: &'static str) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let homeless = (!folder.is_dir()).then_some("its folder does not exist");
    refuse(what, unfit(path, (!force).then_some(taken)).or(homeless))
}

fn refuse(what: &str, why: Option<&str>) -> Result<(), Failure> {
    why.map_or(Ok(()), |why| Err(Failure::misuse(what, why)))
}

/// Why no file can go to `path`. One that is there is a reason if `taken` is a sentence for it, also a link to nothing.
pub(crate) fn unfit(path: &Path, taken: Option<&'static str>) -> Option<&'static str> {
    if path == Path::new("-") {
        return Some("expected the name of a file; it cannot go to stdout, and a file of this name is ./-");
    }
    if path.is_dir() {
        return Some("expected the name of a file, found a directory");
    }
    taken.filter(|_| path.symlink_metadata().is_ok())
}

/// The place as the engine writes to it.
pub(crate) fn target(path: &Path, force: bool) -> Target<'_> {
    Target { path, replace: force }
}

/// Refuses to replace one of the files that a run reads. Only one that is there can be one of them, and only with
/// `force` does it give way: `files` is not asked otherwise.
pub(crate) fn spare(
    what: &str,
    path: &Path,
    force: bool,
    files: impl FnOnce() -> Vec<PathBuf>,
) -> Result<(), Failure> {
    let read = force && path.exists() && is_one_of(path, files());
    refuse(what, read.then_some("it is a file that this run reads, which is left alone"))
}

/// Whether `path` is one of `files`, by whatever name.
pub(crate) fn is_one_of(path: &Path, files: impl IntoIterator<Item = PathBuf>) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    files.into_iter().any(|file| file.canonicalize().is_ok_and(|file| file == path))
}
