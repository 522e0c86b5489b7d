//! One `kubectl apply`, followed to its HTTP 200.
//!
//! Read this beside ARCHITECTURE.md: each step below is a row of its table, and looks at what that
//! part has left behind for the next one. Nothing calls anything: every part lists and watches the
//! API, decides, and writes back.

mod cluster;

use cluster::Cluster;

#[test]
fn one_apply_becomes_an_http_answer() {
    // `proa up`: API server, store, controllers, scheduler, node, DNS and ingress in one process.
    let cluster = Cluster::start();

    // An image is a file in DATA/images; here it is made of a component that was just built.
    cluster.pack_examples();
    assert!(cluster.proa(&["image", "ls"]).contains("docker.io/library/hello-wasm:1"));

    // The API server decodes, defaults, validates and stores three objects. What comes back is
    // what is on the disk: with a uid, a revision and the defaults of the API reference.
    let manifest = include_str!("../examples/hello-wasm/manifest.yaml");
    let said = cluster.apply(manifest);
    assert!(said.contains("deployment.apps/hello-wasm created"), "{said}");
    let deployment = cluster.get("deployment", "hello-wasm");
    assert_eq!(deployment["spec"]["strategy"]["type"], "RollingUpdate");
    assert!(deployment["metadata"]["resourceVersion"].is_string());

    // The Deployment controller makes a ReplicaSet of it, and that one's controller two pods.
    cluster.wait("a ReplicaSet", || !cluster.list("replicaset", "app=hello-wasm").is_empty());
    cluster.wait("two pods", || cluster.list("pod", "app=hello-wasm").len() == 2);

    // The scheduler binds each pod to the one node there is.
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.wait("the pods to be bound", || {
        cluster.list("pod", "app=hello-wasm").iter().all(|p| p["spec"]["nodeName"] == node.as_str())
    });

    // The node makes a sandbox for each pod, compiles the component once, runs it twice, and says
    // so in the pods' status.
    cluster.kubectl(&["rollout", "status", "deployment/hello-wasm", "--timeout=60s"]);
    let pods = cluster.list("pod", "app=hello-wasm");
    for pod in &pods {
        assert_eq!(pod["status"]["phase"], "Running");
        let address = pod["status"]["podIP"].as_str().expect("an address");
        assert!(address.starts_with("10.42."), "{address} is in the pod range");
        // The pod answers at its own address.
        let (status, body) = cluster.http(&format!("{address}:8080"), "pod", "/").expect("an answer");
        let name = pod["metadata"]["name"].as_str().expect("a name");
        assert_eq!((status, body), (200, format!("Hello from WebAssembly in {name}\n")));
    }

    // The endpoints controller lists the ready pods in an EndpointSlice …
    cluster.wait("both endpoints", || {
        let slices = cluster.list("endpointslices", "kubernetes.io/service-name=hello-wasm");
        slices.iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default()).count() == 2
    });

    // … from which the node's nftables rules lead the service's address to one of them.
    let service = cluster.get("service", "hello-wasm");
    let address = format!("{}:80", service["spec"]["clusterIP"].as_str().expect("an address"));
    cluster.wait("the service address", || {
        cluster.http(&address, "service", "/").is_ok_and(|(status, _)| status == 200)
    });

    // The ingress has compiled the Ingress object into its route table: the answer to the question
    // this test asks.
    cluster.wait("the route", || {
        cluster.ingress("hello-wasm.localhost", "/").is_ok_and(|(status, _)| status == 200)
    });
    let (status, body) = cluster.ingress("hello-wasm.localhost", "/").expect("an answer");
    assert_eq!(status, 200);
    assert!(body.starts_with("Hello from WebAssembly in hello-wasm-"), "{body}");

    // What the component printed is its log, as for any container.
    let logs = cluster.kubectl(&["logs", "-l", "app=hello-wasm", "--tail=100"]);
    assert!(logs.contains("GET /"), "{logs}");

    // And the way back: the objects go, the pods stop, the route is gone.
    cluster.kubectl(&["delete", "deployment,service,ingress", "hello-wasm"]);
    cluster.wait("the pods to be gone", || cluster.list("pod", "app=hello-wasm").is_empty());
    cluster.wait("the route to be gone", || {
        cluster.ingress("hello-wasm.localhost", "/").is_ok_and(|(status, _)| status == 404)
    });
}
