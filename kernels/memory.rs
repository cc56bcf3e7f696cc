//! How much memory this process may still take: what the kernel calls available, within what its cgroup allows.
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes. `usize::MAX` where the system does not say.
pub(crate) fn available() -> usize {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> usize {
    let groups = cgroups(root);
    let within = groups.iter().filter_map(|group| group.room()).min().unwrap_or(usize::MAX);
    system(root).unwrap_or(usize::MAX).min(within)
}

/// `MemAvailable`, which counts the page cache as free.
fn system(root: &Path) -> Option<usize> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// A control group's files. Each version names them its own way.
struct Group {
    limit: PathBuf,
    usage: PathBuf,
    stat: PathBuf,
    /// In `stat`: page cache that the kernel takes back before it kills.
    reclaimable: &'static str,
}

impl Group {
    fn room(&self) -> Option<usize> {
        // "max", or version 1's number near 2^63, is no limit.
        let limit: usize = read(&self.limit)?.parse().ok().filter(|&limit| limit < usize::MAX >> 2)?;
        let usage: usize = read(&self.usage)?.parse().ok()?;
        let reclaimable = read(&self.stat)
            .and_then(|stat| {
                let line = stat.lines().find_map(|line| line.strip_prefix(self.reclaimable));
                line?.trim().parse::<usize>().ok()
            })
            .unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// This process's groups and their ancestors, any of which may have the smallest limit. In a container, whose view of
/// the tree is rooted at its own group, the path may not exist: the root is looked at in any case.
fn cgroups(root: &Path) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in read(&root.join("proc/self/cgroup")).unwrap_or_default().lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let second = controllers.is_empty();
        if !second && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let mount = root.join(if second { "sys/fs/cgroup" } else { "sys/fs/cgroup/memory" });
        for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = mount.join(ancestor);
            let [limit, usage, reclaimable] = if second {
                ["memory.max", "memory.current", "inactive_file "]
            } else {
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "]
            };
            let (limit, usage, stat) = (folder.join(limit), folder.join(usage), folder.join("memory.stat"));
            groups.push(Group { limit, usage, stat, reclaimable });
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:   8000 kB\nSwapTotal: 0 kB\n");

    #[test]
    fn without_a_limit_it_is_what_the_system_has() {
        assert_eq!(available_under(tree(&[MEMINFO]).path()), 8000 * 1024);
        let unlimited = [MEMINFO, ("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")];
        assert_eq!(available_under(tree(&unlimited).path()), 8000 * 1024);
        assert_eq!(available_under(tree(&[]).path()), usize::MAX);
    }

    #[test]
    fn an_ancestors_limit_binds() {
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "500000\n"),
            ("sys/fs/cgroup/a/memory.current", "300000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n"),
        ]);
        assert_eq!(available_under(root.path()), 300_000);
    }

    #[test]
    fn version_one_and_a_containers_root() {
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "600000\n"),
        ]);
        assert_eq!(available_under(root.path()), 0);
    }

    #[test]
    fn here_it_is_something() {
        assert!(available() > 1 << 20);
    }
}
