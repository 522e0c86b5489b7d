//! ImageArchitecture.

use expect_test::expect;

use super::*;

fn machine(name: &str, architecture: &str, foreign: &str) -> Object {
    decode(
        "v1",
        "Node",
        json!({"metadata": {
            "name": name, "uid": name, "labels": {"kubernetes.io/arch": architecture},
            "annotations": {"proa.dev/foreign-images": foreign},
        }}),
    )
}

#[test]
fn what_one_node_has_found_holds_for_its_architecture() {
    let cluster = || {
        vec![
            machine("a", "amd64", "docker.io/library/arm-only:1,docker.io/library/other:1"),
            machine("b", "amd64", ""),
            machine("c", "arm64", ""),
        ]
    };
    let runs = |image: &str| pod("p", json!({}), json!({"containers": [{"name": "c", "image": image}]}));
    check(
        Plugin::ImageArchitecture,
        cluster(),
        runs("arm-only:1"),
        expect![[r#"
            a: !node(s) had architecture amd64, which image "docker.io/library/arm-only:1" has no manifest for
            b: !node(s) had architecture amd64, which image "docker.io/library/arm-only:1" has no manifest for
            c: ok
        "#]],
    );
    check(
        Plugin::ImageArchitecture,
        cluster(),
        runs("wasm:1"),
        expect![[r#"
        skip
    "#]],
    );
}
