//! Names and addresses, seen from inside the pods.

mod cluster;

use cluster::Cluster;

/// A pod that runs a shell script of busybox tools once; its log is the answer.
fn ask(cluster: &Cluster, name: &str, script: &str) -> String {
    let script = script.replace("busybox", "/bin/busybox");
    let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "hello-container:1",
            "command": ["/bin/busybox", "sh", "-c"], "args": [script]}]}});
    cluster.apply(&manifest.to_string());
    cluster.wait(&format!("pod {name} to end"), || {
        matches!(cluster.get("pod", name)["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    });
    cluster.kubectl(&["logs", name])
}

#[test]
fn services_are_reached_by_name_and_by_address() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(include_str!("../examples/hello-container/manifest.yaml"));
    cluster.kubectl(&["rollout", "status", "deployment/hello-container", "--timeout=60s"]);
    cluster
        .wait("the route", || cluster.ingress("hello-container.localhost", "/").is_ok_and(|(s, _)| s == 200));

    for (number, name) in
        ["hello-container", "hello-container.default", "hello-container.default.svc.cluster.local"]
            .iter()
            .enumerate()
    {
        let said = ask(&cluster, &format!("by-name-{number}"), &format!("busybox wget -qO- http://{name}/"));
        assert_eq!(said, "Hello from a container\n", "{name}");
    }
    let service = cluster.get("service", "hello-container");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    let said = ask(&cluster, "by-address", &format!("busybox wget -qO- http://{address}/"));
    assert_eq!(said, "Hello from a container\n");

    // A pod reaches itself through its own service.
    let own =
        "busybox httpd -p 8080 -h /www; until busybox wget -qO- http://self/; do busybox sleep 0.2; done";
    cluster.apply("apiVersion: v1\nkind: Service\nmetadata: {name: self}\nspec: {selector: {self: 'yes'}, ports: [{port: 80, targetPort: 8080}]}");
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hairpin", "labels": {"self": "yes"}},
        "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "hello-container:1",
            "command": ["/bin/busybox", "sh", "-c"], "args": [own.replace("busybox", "/bin/busybox")]}]}});
    cluster.apply(&pod.to_string());
    cluster
        .wait("the pod to reach itself", || cluster.get("pod", "hairpin")["status"]["phase"] == "Succeeded");

    // Names that are not there, and addresses that nobody has: refused at once, not timed out.
    let said = ask(&cluster, "no-name", "busybox nslookup nothing.default.svc.cluster.local 2>&1; true");
    assert!(said.contains("NXDOMAIN") || said.contains("can't find"), "{said}");
    for (name, address) in [("no-service", "10.43.200.200"), ("no-pod", "10.42.0.250")] {
        let script = format!("busybox timeout 20 busybox wget -qO- http://{address}/ 2>&1; true");
        let said = ask(&cluster, name, &script);
        assert!(
            said.contains("refused") || said.contains("unreachable") || said.contains("No route"),
            "{said}"
        );
        assert!(cluster.http(&format!("{address}:80"), "x", "/").is_err());
    }
}

#[test]
fn both_halves_of_a_pod_share_network_and_volume() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(include_str!("../examples/together/manifest.yaml"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/together", "--timeout=60s"]);
    let expected = "The container says: Hello from a container\nIts note says: written by together\n";
    cluster.wait("the answer", || {
        cluster.ingress("together.localhost", "/").is_ok_and(|answer| answer == (200, expected.to_owned()))
    });
}
