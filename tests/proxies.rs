//! `pods/proxy`, `services/proxy` and `nodes/proxy`, and logs and watches over WebSocket, asked for
//! by a Python client (`clients/proxies.py`).

mod cluster;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cluster::Cluster;

/// Answers with the request it was sent. Of a connection that is to be upgraded it sends back
/// whatever comes.
const ANSWER: &str = r#"#!/bin/sh
cr=$(printf '\r')
said= length=0 upgrade=
while IFS= read -r line; do
  line=${line%"$cr"}
  [ -n "$line" ] || break
  said="$said$line
"
  case "$line" in
    [Cc]ontent-[Ll]ength:*) length=${line#*: } ;;
    [Uu]pgrade:*) upgrade=1 ;;
  esac
done
if [ -n "$upgrade" ]; then
  printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n'
  exec cat
fi
text="$said
$(head -c "$length")"
printf 'HTTP/1.1 200 OK\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' "${#text}" "$text"
"#;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: pages
      image: web:1
      command: [httpd, -f, -p, "8080", -h, /www]
      ports: [{ name: pages, containerPort: 8080 }]
    - { name: answers, image: "web:1", command: [nc, -ll, -p, "9000", -e, /bin/answer] }
    - { name: says, image: "web:1", command: [sh, -c, "echo this is said; exec sleep 3600"] }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ name: pages, port: 80, targetPort: pages }] }
---
apiVersion: v1
kind: Service
metadata: { name: empty }
spec: { selector: { app: nobody }, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: written }
spec: { ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Endpoints
metadata: { name: written }
subsets: [{ addresses: [{ ip: 10.42.0.1 }], ports: [{ port: 10250 }] }]
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: asker }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: asker }
rules: [{ apiGroups: [""], resources: [pods/proxy], verbs: [get] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: asker }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: asker }
subjects: [{ kind: ServiceAccount, name: asker, namespace: default }]
"#;

fn pack(cluster: &Cluster) {
    let root = cluster.scratch().join("web");
    for dir in ["bin", "www"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("a file");
    write("bin/answer", ANSWER);
    fs::set_permissions(root.join("bin/answer"), Permissions::from_mode(0o755)).expect("executable");
    write("www/index.html", "from the pod\n");
    write("www/links.html", r#"<a href="/other">away</a> <a href="beside">near</a>"#);
    write("www/data.json", r#"{"a":1}"#);
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in ["cat", "head", "httpd", "nc", "sh", "sleep"] {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    let root: &Path = &root;
    cluster.proa(&["image", "pack", root.to_str().expect("UTF-8"), "-t", "web:1", "--cmd", "sh"]);
}

#[test]
fn requests_are_carried_to_pods_services_and_nodes() {
    let cluster = Cluster::start();
    pack(&cluster);
    cluster.apply(OBJECTS);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    cluster.wait("the service's endpoint", || {
        let addresses = "jsonpath={.subsets[*].addresses[*].ip}";
        !cluster.kubectl(&["get", "endpoints", "web", "-o", addresses]).is_empty()
    });
    cluster.python("proxies.py");
    let raw = |method: &str, who: &str| {
        let path = "/api/v1/namespaces/default/pods/web:9000/proxy/";
        let as_who = format!("--as=system:serviceaccount:default:{who}");
        cluster.kubectl_output(&[method, "--raw", path, &as_who]).status.success()
    };
    assert!(raw("get", "asker"), "whose role allows it");
    assert!(!raw("get", "default"), "who has no role is refused");
    assert!(!raw("delete", "asker"), "each method is a verb of its own");
}
