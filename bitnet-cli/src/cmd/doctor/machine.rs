//! Processors and memory, as the system tells of them, within the limits set for this process.
//!
//! All of it is text under `/proc` and `/sys`; what is not there is unknown, not zero.

use std::fs;
use std::path::{Path, PathBuf};

/// The machine.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// Processors this process may use, by the standard library's count.
    pub(super) n_usable: usize,
    /// Cores, hyper-threads not counted.
    pub(super) n_cores: Option<usize>,
    /// Processors this process may be put on: `0-3,8`.
    pub(super) affinity: Option<String>,
    /// Processors' worth of time that the cgroup grants.
    pub(super) cpu_quota: Option<f64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) available_bytes: Option<u64>,
    /// Memory that the cgroup grants.
    pub(super) memory_limit_bytes: Option<u64>,
}

impl Machine {
    /// Looks.
    pub(super) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/meminfo");
        let groups = Groups::of(&read("/proc/self/cgroup"));
        Machine {
            n_usable: std::thread::available_parallelism().map_or(1, usize::from),
            n_cores: n_cores(&read("/proc/cpuinfo")),
            affinity: field(&read("/proc/self/status"), "Cpus_allowed_list").map(str::to_owned),
            cpu_quota: groups.least(|folder| {
                let v2 = fs::read_to_string(folder.join("cpu.max")).ok().and_then(|text| quota(&text));
                v2.or_else(|| {
                    let number = |name: &str| fs::read_to_string(folder.join(name)).ok();
                    quota(&format!("{} {}", number("cpu.cfs_quota_us")?.trim(), number("cpu.cfs_period_us")?))
                })
            }),
            memory_bytes: kib(&info, "MemTotal"),
            available_bytes: kib(&info, "MemAvailable"),
            memory_limit_bytes: groups
                .least(|folder| {
                    let limit =
                        |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
                    let bytes = limit("memory.max").or_else(|| limit("memory.limit_in_bytes"))?;
                    // Version 1 writes "none" as a number near the largest one.
                    (bytes < 1 << 60).then_some(bytes as f64)
                })
                .map(|bytes| bytes as u64),
        }
    }
}

/// The folders in which the limits of this process's control groups stand, innermost first.
struct Groups(Vec<PathBuf>);

impl Groups {
    /// From `/proc/self/cgroup`: `0::/a/b` (version 2), `4:cpu,cpuacct:/a/b` (version 1).
    fn of(text: &str) -> Self {
        let mut folders = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let roots: Vec<PathBuf> = match controllers {
                "" => vec!["/sys/fs/cgroup".into()],
                list => list.split(',').map(|name| Path::new("/sys/fs/cgroup").join(name)).collect(),
            };
            for root in roots {
                // In a container the path may be that of the host; the root of the mount is ours then.
                let within = Path::new(path.trim_start_matches('/'));
                folders.extend(within.ancestors().map(|inner| root.join(inner)));
            }
        }
        Groups(folders)
    }

    /// The smallest limit of a group or of any around it.
    fn least(&self, limit: impl Fn(&Path) -> Option<f64>) -> Option<f64> {
        self.0.iter().filter_map(|folder| limit(folder)).reduce(f64::min)
    }
}

/// `quota period` in microseconds as a number of processors; `max` and -1 are no limit.
fn quota(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let (quota, period) = (words.next()?.parse::<f64>().ok()?, words.next()?.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// What stands after `name:`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(line.trim())
}

fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Different pairs of socket and core in `/proc/cpuinfo`.
fn n_cores(info: &str) -> Option<usize> {
    let mut cores: Vec<(&str, &str)> = info
        .split("\n\n")
        .filter_map(|cpu| Some((field(cpu, "physical id").unwrap_or("0"), field(cpu, "core id")?)))
        .collect();
    cores.sort_unstable();
    cores.dedup();
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotal:       16303428 kB\nMemAvailable:    1024 kB\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\n";
        assert_eq!(kib(text, "MemTotal"), Some(16_303_428 * 1024));
        assert_eq!(kib(text, "MemAvailable"), Some(1 << 20));
        assert_eq!((kib(text, "Mem"), kib(text, "MemFree")), (None, None));
        assert_eq!(field(text, "Cpus_allowed_list"), Some("0-3,8"));
        assert_eq!(kib("MemTotal: 99999999999999999999 kB", "MemTotal"), None);
    }

    #[test]
    fn cores_are_counted_once_for_all_their_threads() {
        let cpu = |socket: u32, core: u32| {
            format!("processor\t: 0\nphysical id\t: {socket}\ncore id\t\t: {core}\n\n")
        };
        let info: String = [(0, 0), (0, 1), (0, 0), (0, 1), (1, 0)].map(|(s, c)| cpu(s, c)).concat();
        assert_eq!(n_cores(&info), Some(3));
        assert_eq!(n_cores("processor : 0\nBogoMIPS : 2.0\n\n"), None, "ARM names no cores");
    }

    #[test]
    fn quotas_of_both_versions_are_processors() {
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        assert_eq!(
            (quota("max 100000"), quota("-1 100000"), quota(""), quota("1 0")),
            (None, None, None, None)
        );
    }

    #[test]
    fn a_limit_of_an_outer_group_counts() {
        let groups = Groups::of("0::/a/b\n4:cpu,cpuacct:/c\nnonsense\n");
        let expected = ["/a/b", "/a", "/", "/cpu/c", "/cpu", "/cpuacct/c", "/cpuacct"];
        let folders: Vec<PathBuf> = expected
            .iter()
            .map(|inner| Path::new("/sys/fs/cgroup").join(inner.trim_start_matches('/')))
            .collect();
        assert_eq!(groups.0, folders);
        let limit =
            |folder: &Path| folder.ends_with("a").then_some(2.0).or(folder.ends_with("b").then_some(3.0));
        assert_eq!(groups.least(limit), Some(2.0));
    }

    #[test]
    fn this_machine_has_a_processor() {
        assert!(Machine::look().n_usable >= 1);
    }
}
