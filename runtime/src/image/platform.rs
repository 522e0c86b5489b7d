//! Which image of an index this node runs: the best match of its own platform, then Wasm. Pure,
//! but for the one look at the processor.
//!
//! As containerd matches platforms: a variant below the processor's own will do, the highest of
//! them first. <https://github.com/opencontainers/image-spec/blob/main/image-index.md>

use oci_client::manifest::ImageIndexEntry;

/// This node's architecture in the image specification's (Go's) spelling.
pub(super) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// The digest of the entry of an index that this node runs.
pub(super) fn choose(entries: &[ImageIndexEntry]) -> Option<&str> {
    choose_for(ARCHITECTURE, level(), entries)
}

fn choose_for<'a>(architecture: &str, level: u32, entries: &'a [ImageIndexEntry]) -> Option<&'a str> {
    let unnamed = |e: &&ImageIndexEntry| entries.len() == 1 && e.platform.is_none();
    let ranked = entries.iter().filter_map(|entry| Some((rank(architecture, level, entry)?, entry)));
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.or_else(|| entries.iter().find(unnamed)).map(|entry| entry.digest.as_str())
}

/// How well an entry fits, 0 for best; `None` if it does not.
fn rank(architecture: &str, level: u32, entry: &ImageIndexEntry) -> Option<u32> {
    let platform = entry.platform.as_ref()?;
    let (os, arch) = (platform.os.to_string(), platform.architecture.to_string());
    if arch == "wasm" {
        return Some(u32::MAX);
    }
    if os != "linux" || arch != architecture {
        return None;
    }
    // amd64 counts from v1, arm64 from v8; each is what no variant means.
    let lowest = if architecture == "arm64" { 8 } else { 1 };
    let wanted = match platform.variant.as_deref().unwrap_or_default() {
        "" => lowest,
        variant => variant.trim_start_matches('v').split('.').next()?.parse().ok()?,
    };
    (lowest..=level).contains(&wanted).then(|| level - wanted)
}

/// The highest variant that the processor runs.
/// <https://gitlab.com/x86-psABIs/x86-64-ABI>, micro-architecture levels.
#[cfg(target_arch = "x86_64")]
fn level() -> u32 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v2 = v2 && has!("cmpxchg16b");
    let v3 = v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma");
    let v3 = v3 && has!("lzcnt") && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq");
    let v4 = v4 && has!("avx512vl");
    1 + u32::from(v2) + u32::from(v3) + u32::from(v4)
}

/// What all processors of 64-bit ARM run.
#[cfg(not(target_arch = "x86_64"))]
fn level() -> u32 {
    8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries named after their platforms: `linux/amd64/v2`.
    fn entries(platforms: &[&str]) -> Vec<ImageIndexEntry> {
        let entry = |platform: &&str| {
            let mut parts = platform.split('/');
            let mut value = serde_json::json!({"mediaType": "m", "size": 1, "digest": platform,
                "platform": {"os": parts.next(), "architecture": parts.next()}});
            if let Some(variant) = parts.next() {
                value["platform"]["variant"] = variant.into();
            }
            serde_json::from_value(value).unwrap()
        };
        platforms.iter().map(entry).collect()
    }

    #[test]
    fn the_best_match_is_chosen() {
        let arm = &["linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/amd64"][..];
        let levels = &["linux/amd64/v4", "linux/amd64", "linux/amd64/v2", "linux/amd64/v3"][..];
        let old = &["linux/386", "linux/arm/v7", "windows/amd64"][..];
        for (architecture, level, platforms, chosen) in [
            ("arm64", 8, arm, Some("linux/arm64/v8")),
            ("amd64", 1, arm, Some("linux/amd64")),
            ("amd64", 1, levels, Some("linux/amd64")),
            ("amd64", 2, levels, Some("linux/amd64/v2")),
            ("amd64", 3, levels, Some("linux/amd64/v3")),
            ("amd64", 4, levels, Some("linux/amd64/v4")),
            ("amd64", 3, &["linux/amd64/v4"], None),
            ("amd64", 3, &["linux/amd64/v1", "linux/amd64/v2"], Some("linux/amd64/v2")),
            ("arm64", 8, &["linux/arm64/v9", "linux/arm64"], Some("linux/arm64")),
            ("arm64", 8, levels, None),
            ("amd64", 3, old, None),
            ("amd64", 1, &["unknown/unknown", "linux/amd64"], Some("linux/amd64")),
            ("amd64", 1, &["wasi/wasm", "linux/amd64"], Some("linux/amd64")),
            ("amd64", 1, &["linux/arm64", "wasi/wasm"], Some("wasi/wasm")),
            ("amd64", 1, &["linux/amd64/strange"], None),
        ] {
            let entries = entries(platforms);
            assert_eq!(choose_for(architecture, level, &entries), chosen, "{architecture} {platforms:?}");
        }
    }

    #[test]
    fn a_single_entry_without_platform_is_it() {
        let mut one = entries(&["linux/amd64"]);
        one[0].platform = None;
        assert_eq!(choose(&one), Some("linux/amd64"));
        let mut two = entries(&["linux/s390x", "linux/s390x"]);
        two[0].platform = None;
        assert_eq!(choose(&two), None);
    }
}
