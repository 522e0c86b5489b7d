//! Discovery: which groups, versions and resources there are.
//!
//! Pure; derived from the table of kinds and from that of [resources that are not
//! stored](super::unstored). Formats:
//! <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>.

use proa_kinds::{Kind, Subresource, Table, Text};
use serde_json::{Map, Value, json};

use super::unstored::UNSTORED;

/// One resource of a version.
struct Entry<'a> {
    name: &'a str,
    singular: &'a str,
    kind: &'a str,
    namespaced: bool,
    verbs: &'a [&'a str],
    short_names: &'a [Text],
    categories: &'a [Text],
    parts: Vec<PartEntry<'a>>,
}

/// One subresource.
struct PartEntry<'a> {
    name: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    verbs: &'a [&'a str],
}

/// `/api`.
pub fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address }],
    })
}

/// `/apis`.
pub fn groups(table: &Table) -> Value {
    let groups: Vec<Value> =
        versions(table).iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| group_entry(g, v)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`.
pub fn group(table: &Table, group: &str) -> Option<Value> {
    let versions = versions(table);
    let (name, versions) = versions.iter().find(|(g, _)| *g == group && !g.is_empty())?;
    let mut entry = json!({ "kind": "APIGroup", "apiVersion": "v1" });
    if let (Value::Object(to), Value::Object(from)) = (&mut entry, group_entry(name, versions)) {
        to.extend(from);
    }
    Some(entry)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resources(table: &Table, group: &str, version: &str) -> Option<Value> {
    let entries = entries(table, group, version);
    if entries.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for entry in &entries {
        let mut resource = json!({
            "name": entry.name, "singularName": entry.singular, "namespaced": entry.namespaced,
            "kind": entry.kind, "verbs": entry.verbs,
        });
        set_names(&mut resource, entry);
        resources.push(resource);
        for part in &entry.parts {
            let mut resource = json!({
                "name": format!("{}/{}", entry.name, part.name), "singularName": "",
                "namespaced": entry.namespaced, "kind": part.kind, "verbs": part.verbs,
            });
            if (part.group, part.version) != (group, version) {
                resource["group"] = part.group.into();
                resource["version"] = part.version.into();
            }
            resources.push(resource);
        }
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group, version), "resources": resources,
    }))
}

/// All groups (`core` false) or the core group alone, in one document of `apidiscovery.k8s.io`.
pub fn aggregated(table: &Table, core: bool, discovery_version: &str) -> Value {
    let items: Vec<Value> = versions(table)
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".to_owned(), (*group).into());
            }
            metadata.insert("creationTimestamp".to_owned(), Value::Null);
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = entries(table, group, version)
                        .iter()
                        .map(|entry| aggregated_entry(group, version, entry))
                        .collect();
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{discovery_version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_entry(group: &str, version: &str, entry: &Entry<'_>) -> Value {
    let mut resource = json!({
        "resource": entry.name,
        "responseKind": { "group": group, "version": version, "kind": entry.kind },
        "scope": if entry.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": entry.singular,
        "verbs": entry.verbs,
    });
    set_names(&mut resource, entry);
    if !entry.parts.is_empty() {
        resource["subresources"] = entry
            .parts
            .iter()
            .map(|part| {
                json!({
                    "subresource": part.name,
                    "responseKind": { "group": part.group, "version": part.version, "kind": part.kind },
                    "verbs": part.verbs,
                })
            })
            .collect();
    }
    resource
}

/// Groups in the order of the table, each with its versions, best first.
fn versions(table: &Table) -> Vec<(&str, Vec<&str>)> {
    let stored = table.iter().map(|k| (k.group.as_str(), k.version.as_str()));
    let asked = UNSTORED.iter().map(|r| (r.group, r.version));
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in stored.chain(asked) {
        match groups.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    groups
}

fn entries<'a>(table: &'a Table, group: &str, version: &str) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'_>> =
        table.iter().filter(|k| k.group == group && k.version == version).map(|k| stored_entry(k)).collect();
    entries.extend(UNSTORED.iter().filter(|r| r.group == group && r.version == version).map(|r| Entry {
        name: r.plural,
        singular: r.singular,
        kind: r.kind,
        namespaced: r.namespaced,
        verbs: r.verbs,
        short_names: &[],
        categories: &[],
        parts: Vec::new(),
    }));
    entries
}

fn stored_entry<'a>(kind: &'a Kind) -> Entry<'a> {
    let part = |of: &'a Subresource| match &of.takes {
        Some((group, version, kind)) => PartEntry { name: &of.name, group, version, kind, verbs: of.verbs },
        None => PartEntry {
            name: &of.name,
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            verbs: of.verbs,
        },
    };
    let mut parts: Vec<PartEntry<'a>> = kind.subresources.iter().map(part).collect();
    parts.sort_by_key(|p| p.name);
    Entry {
        name: &kind.plural,
        singular: &kind.singular,
        kind: &kind.kind,
        namespaced: kind.namespaced,
        verbs: kind.verbs(),
        short_names: &kind.short_names,
        categories: &kind.categories,
        parts,
    }
}

fn set_names(resource: &mut Value, entry: &Entry<'_>) {
    if !entry.short_names.is_empty() {
        resource["shortNames"] = entry.short_names.into();
    }
    if !entry.categories.is_empty() {
        resource["categories"] = entry.categories.into();
    }
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|v| json!({ "groupVersion": group_version(group, v), "version": v })).collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions[0] })
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_found_without_any_kind() {
        let table = Table::default();
        assert!(
            groups(&table)["groups"].as_array().unwrap().iter().any(|g| g["name"] == "authorization.k8s.io")
        );
        assert_eq!(group(&table, "authorization.k8s.io").unwrap()["preferredVersion"]["version"], "v1");
        assert!(group(&table, "").is_none());
        let list = resources(&table, "authentication.k8s.io", "v1").unwrap();
        assert_eq!(list["groupVersion"], "authentication.k8s.io/v1");
        assert!(resources(&table, "none.example", "v1").is_none());
    }

    #[test]
    fn built_in_kinds_with_their_subresources() {
        let table = proa_kinds::built_in::table();
        for kind in table.iter() {
            let list = resources(&table, &kind.group, &kind.version).unwrap();
            let names: Vec<&str> =
                list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
            assert!(names.contains(&kind.plural.as_str()));
            assert_eq!(
                names.contains(&format!("{}/status", kind.plural).as_str()),
                kind.subresource("status").is_some()
            );
            let document = aggregated(&table, kind.group.is_empty(), "v2");
            assert!(document.to_string().contains(&format!("\"resource\":\"{}\"", kind.plural)));
        }
    }
}
