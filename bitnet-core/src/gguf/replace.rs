//! A file appears whole or not at all, and takes nobody's place unasked.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// Where a file is to go. A path alone stands for one whose file is replaced.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The file's name.
    pub path: &'a Path,
    /// Whether a file that is there gives way. If not, the new one is refused, also when the other appears only while
    /// the new one is written.
    pub replace: bool,
}

impl<'a> From<&'a Path> for Target<'a> {
    fn from(path: &'a Path) -> Self {
        Target { path, replace: true }
    }
}

impl<'a> From<&'a PathBuf> for Target<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Target::from(path.as_path())
    }
}

/// Writes a file whole or not at all.
///
/// The bytes go to a temporary file in the same directory, which takes its place at `target` when `fill` is done and
/// the disk has it. A file that is replaced leaves its permissions to the new one. If anything fails, the temporary
/// file is removed and all is as it was.
///
/// # Errors
/// If `fill` fails, the system refuses, or the place is taken: by anything, if the target is not to be replaced, else
/// by what is no regular file.
pub fn replace_file<'a>(
    target: impl Into<Target<'a>>,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    replace_file_if(target, fill, |_| Ok(()))
}

/// The same, with a look at what was written before it takes its place.
///
/// - `check`: is given the path of the complete temporary file
///
/// # Errors
/// Also if `check` fails: all is then as it was.
pub fn replace_file_if<'a>(
    target: impl Into<Target<'a>>,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let Target { path, replace } = target.into();
    let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
    if !replace && is_taken(path) {
        return Err(io("create")(taken()));
    }
    // Through a link to the file it means: the link stays.
    let (home, before) = match fs::metadata(path) {
        Ok(meta) if meta.is_file() => (path.canonicalize().map_err(io("write"))?, Some(meta)),
        Ok(_) => {
            let reason = "expected a regular file or a new one, found a directory, a pipe or a device".into();
            return Err(Error::Invalid { what: path.display().to_string(), reason });
        }
        Err(_) => (path.to_owned(), None),
    };
    let Some(name) = home.file_name() else {
        let reason = "expected a path that ends in a file name".into();
        return Err(Error::Invalid { what: path.display().to_string(), reason });
    };
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
    let temporary = home.with_file_name(temporary);

    let file = create(&temporary, before.as_ref()).map_err(io("create"))?;
    let temporary = Temporary { path: temporary, keep: false };
    if let Some(before) = before {
        file.set_permissions(before.permissions()).map_err(io("create"))?; // what the umask took from them
    }
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    fill(&mut buffered)?;
    let file = buffered.into_inner().map_err(|e| io("write")(e.into_error()))?;
    file.sync_all().map_err(io("write"))?;
    drop(file);
    check(&temporary.path)?;
    let placed = if replace {
        temporary.rename_to(&home)
    } else {
        temporary.link_to(&home, |from, to| fs::hard_link(from, to))
    };
    placed.map_err(io("create"))
}

/// Whether anything has this name, a link to nothing included.
fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn taken() -> io::Error {
    io::Error::new(ErrorKind::AlreadyExists, "a file of this name has appeared, and is left alone")
}

/// A new file that nobody can open who could not open the one `before`: not even while it is empty.
fn create(path: &Path, before: Option<&Metadata>) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if let Some(before) = before {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        options.mode(before.permissions().mode());
    }
    #[cfg(not(unix))]
    let _ = before;
    options.open(path)
}

/// A file that is removed again unless it is renamed, also when its writer panics.
struct Temporary {
    path: PathBuf,
    keep: bool,
}

impl Temporary {
    /// Gives the file the name `home`, whoever has it.
    fn rename_to(mut self, home: &Path) -> io::Result<()> {
        fs::rename(&self.path, home)?;
        self.keep = true;
        sync_directory(home);
        Ok(())
    }

    /// Gives the file the name `home`, if nobody has it: unlike a rename, a second name takes nobody's place.
    ///
    /// - `link`: gives a file its second name
    fn link_to(self, home: &Path, link: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        match link(&self.path, home) {
            Ok(()) => {
                sync_directory(home);
                Ok(())
            }
            Err(_) if is_taken(home) => Err(taken()),
            Err(_) => self.rename_to(home), // a file system whose files have one name each
        }
    }
}

/// A name is on the disk when its directory is; not every system can be asked for that.
fn sync_directory(of: &Path) {
    let directory = of.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(target: Target<'_>, before_the_end: impl FnOnce()) -> Result<()> {
        replace_file(target, |file| {
            before_the_end();
            let written = file.write_all(b"new");
            written.map_err(|source| Error::Io { path: target.path.to_owned(), action: "write", source })
        })
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let target = Target { path: &path, replace: false };
        let error = write(target, || fs::write(&path, "theirs").unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("cannot create ") && error.ends_with("and is left alone"), "{error}");
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"theirs".to_vec(), 1));
        let never = || panic!("what is known to be refused is not written");
        assert_eq!(write(target, never).unwrap_err().to_string(), error);

        write(Target { replace: true, ..target }, || ()).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"new".to_vec(), 1));
    }

    #[test]
    fn a_new_file_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(Target { path: &path, replace: false }, || ()).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"new".to_vec(), 1));
    }

    /// As on a file system whose files have one name each: `meanwhile`, and then a refusal.
    fn place_without_links(home: &Path, meanwhile: impl FnOnce()) -> io::Result<()> {
        let path = home.with_file_name(".temporary");
        fs::write(&path, "new").unwrap();
        Temporary { path, keep: false }.link_to(home, |_, _| {
            meanwhile();
            Err(io::Error::from(ErrorKind::Unsupported))
        })
    }

    #[test]
    fn a_file_that_cannot_have_a_second_name_changes_its_first() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("file");
        place_without_links(&home, || ()).unwrap();
        assert_eq!((fs::read(&home).unwrap(), names(dir.path())), (b"new".to_vec(), 1));
    }

    #[test]
    fn without_second_names_a_file_that_has_appeared_is_left_alone_too() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("file");
        let error = place_without_links(&home, || fs::write(&home, "theirs").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&home).unwrap(), names(dir.path())), (b"theirs".to_vec(), 1));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_a_name_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link");
        let target = Target { path: &path, replace: false };
        let link = || std::os::unix::fs::symlink("nothing", &path).unwrap();
        write(target, link).unwrap_err();
        write(target, || ()).unwrap_err();
        assert!(path.is_symlink());
        assert_eq!(names(dir.path()), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_replaced_leaves_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for mode in [0o600, 0o640, 0o666, 0o400] {
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let mut meanwhile = 0;
            let look = || {
                let mut others = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
                let temporary = others.find(|entry| entry.path() != path).unwrap();
                meanwhile = temporary.metadata().unwrap().permissions().mode() & 0o777;
            };
            write(Target::from(&path), look).unwrap();
            let after = path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((meanwhile, after), (mode, mode), "{mode:o}");
            fs::remove_file(&path).unwrap();
        }
    }
}
