//! A file for the time of a run: new, of a name that nobody can foretell, and gone however the run ends.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use bitnet_core::Error;

/// An open file in the system's folder for temporary ones. On Linux its name is gone at once, and the kernel removes
/// the file with its last user; elsewhere it is removed when this goes.
pub(super) struct Scratch {
    file: File,
    name: PathBuf,
    /// What to open it by, if not by its name.
    unnamed: Option<PathBuf>,
}

impl Scratch {
    /// Makes the file. A link, or whatever else has its name, is never followed.
    pub(super) fn new() -> Result<Self, Error> {
        // The keys of the hash are the system's random numbers.
        let random = RandomState::new().build_hasher().finish();
        let name = std::env::temp_dir().join(format!("bitnet-{random:016x}.gguf"));
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&name);
        let file = file.map_err(|source| Error::Io { path: name.clone(), action: "create", source })?;
        let mut scratch = Scratch { file, name, unnamed: None };
        #[cfg(target_os = "linux")]
        scratch.take_name();
        Ok(scratch)
    }

    /// Removes the name, if the file can be opened without it.
    #[cfg(target_os = "linux")]
    fn take_name(&mut self) {
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        if path.exists() && fs::remove_file(&self.name).is_ok() {
            self.unnamed = Some(path);
        }
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The name it was made by, for messages.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// What it can be opened by.
    pub(super) fn path(&self) -> &Path {
        self.unnamed.as_deref().unwrap_or(&self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.unnamed.is_none() {
            let _ = fs::remove_file(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_scratch_file_is_read_by_its_path_and_leaves_nothing() {
        let scratch = Scratch::new().unwrap();
        let name = scratch.name().to_owned();
        assert_eq!(name.exists(), cfg!(not(target_os = "linux")));
        scratch.file().write_all(b"abc").unwrap();
        assert_eq!(fs::read(scratch.path()).unwrap(), b"abc");
        assert_ne!(Scratch::new().unwrap().name(), name, "a name that could be foretold");
        drop(scratch);
        assert!(!name.exists());
    }
}
