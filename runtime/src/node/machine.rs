//! What this machine is and has, as the Node object tells it. Read from `/proc`, `/etc`, `/sys`.

use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use proa_api::quantity::Amount;

/// The version of the Kubernetes API that the node speaks.
const KUBELET_VERSION: &str = "v1.35.0";
/// Part of the memory that is left to the system and to Proa: a sixteenth, at most 256 MiB.
const RESERVED_SHARE: i64 = 16;
const RESERVED_MAX_BYTES: i64 = 256 << 20;

/// This machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors.
    pub cpu: Amount,
    /// Bytes of memory.
    pub memory: Amount,
    /// Bytes of memory that pods may have.
    pub allocatable_memory: Amount,
    /// Bytes of the file system that holds the data directory.
    pub storage: Amount,
    /// Name and version of everything.
    pub info: NodeSystemInfo,
    /// Host name.
    pub hostname: String,
}

impl Machine {
    /// Looks at the machine.
    pub fn read(data_dir: &Path, version: &str) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = memory_bytes(&text("/proc/meminfo")).unwrap_or(0);
        let reserved = (memory / RESERVED_SHARE).min(RESERVED_MAX_BYTES);
        let storage = nix::sys::statvfs::statvfs(data_dir).map_or(0, |s| s.blocks() * s.fragment_size());
        let uname = nix::sys::utsname::uname().ok();
        let of = |part: Option<&std::ffi::OsStr>| {
            part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
        };
        Machine {
            cpu: Amount::from_units(i64::try_from(cpus).unwrap_or(1)),
            memory: Amount::from_units(memory),
            allocatable_memory: Amount::from_units(memory - reserved),
            storage: Amount::from_units(i64::try_from(storage).unwrap_or(i64::MAX)),
            hostname: of(uname.as_ref().map(|u| u.nodename())).to_lowercase(),
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id: text("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: format!("proa://{version}"),
                kernel_version: of(uname.as_ref().map(|u| u.release())),
                kube_proxy_version: KUBELET_VERSION.to_owned(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                machine_id: text("/etc/machine-id"),
                operating_system: "linux".to_owned(),
                os_image: os_image(&text("/etc/os-release")),
                system_uuid: text("/sys/class/dmi/id/product_uuid"),
                ..NodeSystemInfo::default()
            },
        }
    }
}

/// The processor architecture in Go's spelling.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Bytes of memory that are free or can be freed.
pub fn available_memory_bytes() -> Option<i64> {
    meminfo(&text("/proc/meminfo"), "MemAvailable:")
}

fn memory_bytes(text: &str) -> Option<i64> {
    meminfo(text, "MemTotal:")
}

fn meminfo(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<i64>().ok()? * 1024)
}

fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// A file's text without the blanks at its ends; empty if it cannot be read.
fn text(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_say() {
        assert_eq!(memory_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_image(""), "Linux");
    }
}
