//! What the dependencies may be, as `deny.toml` says: what `cargo deny check` looks at, but for
//! advisories, which need the network.

use std::process::Command;

use serde_json::Value;

#[test]
fn dependencies_are_as_allowed() {
    let rules = std::fs::read_to_string("deny.toml").expect("deny.toml");
    let rules: toml::Table = rules.parse().expect("TOML");
    let licenses = &rules["licenses"];
    let banned: Vec<&str> = rules["bans"]["deny"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|ban| ban["name"].as_str().expect("a name"))
        .collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let [name, version] = ["name", "version"].map(|field| package[field].as_str().expect("a text"));
        let mut say = |what: String| wrong.push(format!("{name} {version} {what}"));
        if banned.contains(&name) {
            say("is banned".to_owned());
        }
        for wildcard in dependencies(&package).filter(|d| d["req"] == "*" && d["path"].is_null()) {
            say(format!("takes any version of {}", wildcard["name"]));
        }
        let Some(source) = package["source"].as_str() else { continue };
        if source != "registry+https://github.com/rust-lang/crates.io-index" {
            say(format!("comes from {source}"));
        }
        let mut allowed = texts(&licenses["allow"]);
        allowed.extend(about(&licenses["exceptions"], name).flat_map(|exception| texts(&exception["allow"])));
        let clarified = about(&licenses["clarify"], name).next().map(|said| &said["expression"]);
        let license = package["license"].as_str().or(clarified.and_then(toml::Value::as_str));
        let license = license.unwrap_or_default();
        let license = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX)
            .ok()
            .filter(|license| license.evaluate(|asked| allowed.contains(&asked.to_string().as_str())));
        if license.is_none() {
            say(format!("has the license {}", package["license"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The entries of a list that are about a crate.
fn about<'a>(list: &'a toml::Value, name: &str) -> impl Iterator<Item = &'a toml::Value> {
    list.as_array().expect("a list").iter().filter(move |entry| entry["crate"].as_str() == Some(name))
}

fn texts(list: &toml::Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    let own = package["source"].is_null();
    package["dependencies"].as_array().expect("a list").iter().filter(move |_| own)
}

/// All packages that are built on the machines that Proa is made for, as cargo has them at hand.
fn packages() -> Vec<Value> {
    let arguments = ["metadata", "--locked", "--offline", "--format-version=1"];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let Value::Array(packages) = metadata["packages"].take() else { panic!("no packages") };
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}
