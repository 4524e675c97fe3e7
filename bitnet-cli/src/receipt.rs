//! What a measurement must carry to be believed: when, which source, which build, which machine, which model.
//!
//! The commit is asked of `git` when the receipt is written. A commit compiled in would be a lie as soon as the
//! tree changes without a rebuild of this crate, and would make the same source give different binaries; the
//! hash of the executable says which binary it was, whatever the tree looks like.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use bitnet_core::Error;
use bitnet_core::gguf::replace_file;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::exit::Failure;
use crate::place;

/// Raised when a key changes its meaning or goes away; new keys alone do not raise it.
const SCHEMA: u32 = 1;

/// A receipt's place, found fit before anything is measured.
pub(crate) struct Receipt {
    path: PathBuf,
    /// Whether a file at `path` gives way.
    force: bool,
    body: Value,
}

impl Receipt {
    /// Reserves nothing, but refuses now what would fail after minutes of measuring.
    ///
    /// - `reads`: the files of the run, which are not replaced
    pub(crate) fn begin(
        path: &Path,
        force: bool,
        reads: impl FnOnce() -> Vec<PathBuf>,
    ) -> Result<Self, Failure> {
        let what = format!("--receipt {}", path.display());
        let taken = "the file exists; receipts are not edited (--force overwrites)";
        place::check_late(&what, path, force, taken)?;
        place::spare(&what, path, force, reads)?;
        let body = json!({
            "schema": SCHEMA,
            "date": date(SystemTime::now()),
            "command": std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>(),
            "source": source(),
            "build": build(),
            "machine": machine(),
        });
        Ok(Receipt { path: path.to_owned(), force, body })
    }

    /// Sets a key of the receipt.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.body[key] = value;
    }

    /// Writes the receipt: all of it or nothing.
    pub(crate) fn write(self) -> Result<(), Failure> {
        let written = replace_file(place::target(&self.path, self.force), |file| {
            let written = writeln!(file, "{:#}", self.body);
            written.map_err(|source| Error::Io { path: self.path.clone(), action: "write", source })
        });
        Ok(written?)
    }
}

/// A file as a receipt names it: path, size and SHA-256.
pub(crate) fn file_identity(path: &Path) -> Result<Value, Failure> {
    let file =
        File::open(path).map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })?;
    identity(path, file)
}

/// A model of several files as a receipt names it: path, size and SHA-256 of each of `paths`, which lie in one folder,
/// in the order of their names. Of them all, `bytes` is the sum and `sha256` the hash of what `sha256sum` prints for
/// them in their folder.
pub(crate) fn files_identity<P: AsRef<Path>>(
    model: &Path,
    paths: impl IntoIterator<Item = P>,
) -> Result<Value, Failure> {
    let (mut files, mut sums, mut bytes) = (Vec::new(), String::new(), 0);
    for path in paths {
        let path = path.as_ref();
        let mut file = file_identity(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sums += &format!("{}  {name}\n", file["sha256"].as_str().unwrap_or_default());
        bytes += file["bytes"].as_u64().unwrap_or_default();
        file["path"] = name.into();
        files.push(file);
    }
    let mut all = identity(model, sums.as_bytes())?;
    all["bytes"] = bytes.into();
    all["files"] = files.into();
    Ok(all)
}

/// What [`file_identity`] says, of anything that can be read and has a name.
pub(crate) fn identity(path: &Path, mut from: impl Read) -> Result<Value, Failure> {
    let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0u64;
    loop {
        match from.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({ "path": path.to_string_lossy(), "bytes": bytes, "sha256": digest }))
}

/// How this binary was made, and which one it is.
fn build() -> Value {
    let features = [
        ("cpu", cfg!(feature = "cpu")),
        ("full-cli", cfg!(feature = "full-cli")),
        ("demo", cfg!(feature = "demo")),
        ("instrument", cfg!(feature = "instrument")),
    ];
    let on: Vec<&str> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let binary = std::env::current_exe().ok().and_then(|path| {
        let mut binary = file_identity(&path).ok()?;
        // As it lies in the current folder, if it does: a checkout has the same files wherever it is.
        if let Some(within) =
            std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok()?.to_str())
        {
            binary["path"] = within.into();
        }
        Some(binary)
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "rustc": env!("BITNET_RUSTC"),
        "profile": env!("BITNET_PROFILE"),
        "opt_level": env!("BITNET_OPT_LEVEL"),
        "target": env!("BITNET_TARGET"),
        "target_features": env!("BITNET_TARGET_FEATURES"),
        "features": on,
        "binary": binary,
    })
}

/// Commit of the checkout around the executable or the current folder, and whether anything but receipts differs from
/// it; null outside of one.
fn source() -> Value {
    let around_binary = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let found = around_binary.into_iter().chain([PathBuf::from(".")]).find_map(|folder| {
        let root = PathBuf::from(git(&folder, &["rev-parse", "--show-toplevel"])?);
        root.join("bitnet-cli/Cargo.toml").is_file().then_some(root)
    });
    let Some(root) = found else { return Value::Null };
    json!({
        "commit": git(&root, &["rev-parse", "HEAD"]),
        "dirty": git(&root, &["status", "--porcelain", "--", ".", ":!receipts"]).map(|changes| !changes.is_empty()),
    })
}

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The machine the numbers belong to.
fn machine() -> Value {
    json!({
        "cpu": cpu_model(),
        "cpu_id": cpu_id(),
        "cpus": std::thread::available_parallelism().map_or(1, |n| n.get()),
        "arch": std::env::consts::ARCH,
        "os": std::env::consts::OS,
    })
}

/// The CPU's own name, where the system tells it without privileges or a library.
pub(crate) fn cpu_model() -> String {
    // 32- and 64-bit ARM kernels give numbers instead of a name.
    let arm =
        || Some(format!("implementer {} part {}", cpu_field("CPU implementer")?, cpu_field("CPU part")?));
    cpu_field("model name").or_else(arm).unwrap_or_else(|| "unknown".into())
}

/// What tells CPUs of one name apart, on x86: "AMD EPYC" is the name of several.
fn cpu_id() -> Option<String> {
    let [family, model, stepping] = ["cpu family", "model", "stepping"].map(cpu_field);
    Some(format!("family {}, model {}, stepping {}", family?, model?, stepping?))
}

/// What Linux says of the first processor under `name`.
fn cpu_field(name: &str) -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned()).filter(|value| !value.is_empty())
}

/// `2026-07-28T12:34:56Z`.
pub(crate) fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day in the Gregorian calendar, from days since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097); // the calendar repeats after 400 years
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_follow_the_calendar() {
        // Seconds since the epoch and their names, from `date -u -d @N`.
        for (seconds, name) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (13_574_563_200, "2400-02-29T00:00:00Z"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), name);
        }
    }

    #[test]
    fn a_file_is_named_by_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let identity = file_identity(&path).unwrap();
        assert_eq!(identity["bytes"], 3);
        // The example of FIPS 180-4, appendix B.1.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(identity["sha256"], digest);
    }

    #[test]
    fn a_receipt_is_not_overwritten_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let mut receipt = Receipt::begin(&path, false, Vec::new).unwrap();
        receipt.set("rows", json!([1, 2]));
        receipt.write().unwrap();
        let body: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&body["schema"], &body["rows"]), (&json!(1), &json!([1, 2])));
        assert!(matches!(Receipt::begin(&path, false, Vec::new), Err(Failure::Misuse(_))));
        assert!(Receipt::begin(&path, true, Vec::new).is_ok());
        assert!(matches!(
            Receipt::begin(&folder.path().join("no/r.json"), false, Vec::new),
            Err(Failure::Misuse(_))
        ));
    }
}
