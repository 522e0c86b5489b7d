//! Who may do what, with a real kubectl: roles, bindings, aggregation, escalation, impersonation,
//! anonymous requests, and pods that speak to the API with the token in their volume.

mod cluster;

use base64::Engine as _;
use cluster::Cluster;

/// What kubectl prints for a refusal, without its head.
fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let text = cluster.kubectl_fails(arguments);
    text.trim_end().trim_start_matches("Error from server (Forbidden): ").to_owned()
}

#[test]
fn roles_and_bindings_decide() {
    let cluster = Cluster::start();
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments);
    let can = |arguments: &[&str]| {
        let output = cluster.kubectl_output(&[&["auth", "can-i"], arguments].concat());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };

    // A Role counts in its namespace, for the verbs and resources that it names.
    kubectl(&["create", "role", "pod-reader", "--verb=get,list,watch", "--resource=pods,pods/log"]);
    kubectl(&["create", "rolebinding", "read-pods", "--role=pod-reader", "--user=jane"]);
    kubectl(&["get", "pods", "--as=jane"]);
    assert_eq!(
        refused(&cluster, &["get", "pods", "-n", "kube-system", "--as=jane"]),
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"kube-system\""
    );
    assert_eq!(
        refused(&cluster, &["get", "nodes", "--as=jane"]),
        "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
    );
    assert_eq!(
        refused(&cluster, &["get", "deploy", "x", "--as=jane"]),
        "deployments.apps \"x\" is forbidden: User \"jane\" cannot get resource \"deployments\" in API group \"apps\" in the namespace \"default\""
    );
    // A name is what was sent, in whatever script.
    assert_eq!(
        refused(&cluster, &["get", "secrets", "--as=jürgen"]),
        "secrets is forbidden: User \"jürgen\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(can(&["get", "pods", "--subresource=log", "--as=jane"]), "yes");
    assert_eq!(can(&["get", "pods", "--subresource=exec", "--as=jane"]), "no");
    assert_eq!(can(&["*", "*"]), "yes");
    let list = kubectl(&["auth", "can-i", "--list", "--as=jane"]);
    let row = |resource: &str| {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(resource));
        line.unwrap_or_default().to_owned()
    };
    assert!(row("pods").ends_with("[get list watch]"), "{list}");
    assert!(row("selfsubjectaccessreviews.authorization.k8s.io").ends_with("[create]"), "{list}");
    assert!(list.contains("[/version]"), "{list}");
    kubectl(&["delete", "rolebinding", "read-pods"]);
    assert_eq!(can(&["get", "pods", "--as=jane"]), "no");

    // Names, paths, groups, accounts.
    kubectl(&[
        "create",
        "role",
        "one",
        "--verb=get,watch,list",
        "--resource=configmaps",
        "--resource-name=one",
    ]);
    kubectl(&["create", "rolebinding", "one", "--role=one", "--group=ops"]);
    kubectl(&["create", "configmap", "one", "--from-literal=a=b"]);
    kubectl(&["get", "cm", "one", "--as=x", "--as-group=ops"]);
    kubectl(&["get", "cm", "--field-selector=metadata.name=one", "--as=x", "--as-group=ops"]);
    assert!(refused(&cluster, &["get", "cm", "--as=x", "--as-group=ops"]).contains("cannot list resource"));
    kubectl(&["create", "clusterrole", "metrics", "--verb=get", "--non-resource-url=/logs/*"]);
    kubectl(&[
        "create",
        "clusterrolebinding",
        "metrics",
        "--clusterrole=metrics",
        "--serviceaccount=default:bot",
    ]);
    let bot = "--as=system:serviceaccount:default:bot";
    assert_eq!(can(&["get", "/logs/a", bot]), "yes");
    assert_eq!(
        refused(&cluster, &["get", "--raw", "/metrics", bot]),
        "forbidden: User \"system:serviceaccount:default:bot\" cannot get path \"/metrics\""
    );

    // Columns, and what a binding shows.
    let table = kubectl(&["get", "rolebinding", "one", "-o", "wide"]);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..6], ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS"], "{table}");
    assert_eq!((words[6], words[7], words[9]), ("one", "Role/one", "ops"), "{table}");
    assert!(kubectl(&["describe", "rolebinding", "one"]).contains("Group  ops"));
    assert!(kubectl(&["get", "clusterrole", "cluster-admin"]).contains("CREATED AT"));
    let text =
        cluster.kubectl_fails(&["patch", "rolebinding", "one", "-p", r#"{"roleRef":{"name":"other"}}"#]);
    assert!(text.contains("cannot change roleRef"), "{text}");

    // `auth reconcile` makes a binding of another role anew.
    let manifest = "---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: one, namespace: default}, \
                    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: pod-reader}, \
                    subjects: [{kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}]}";
    let output = cluster.kubectl_stdin(&["auth", "reconcile", "-f", "-"], manifest);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(can(&["get", "pods", "--as=jane"]), "yes");
}

#[test]
fn nobody_gets_more_than_somebody_has() {
    let cluster = Cluster::start();
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments);
    // The default roles are gathered from their parts.
    cluster.wait("the rules of the role admin", || {
        cluster.get("clusterrole", "admin")["rules"].as_array().is_some_and(|rules| rules.len() > 10)
    });
    kubectl(&["create", "rolebinding", "ann", "--clusterrole=admin", "--user=ann"]);
    kubectl(&["create", "rolebinding", "joe", "--clusterrole=edit", "--user=joe"]);
    kubectl(&["create", "configmap", "a", "--as=joe"]);
    let text = refused(&cluster, &["create", "role", "r", "--verb=get", "--resource=pods", "--as=joe"]);
    assert!(text.contains("User \"joe\" cannot create resource \"roles\""), "{text}");
    assert!(refused(&cluster, &["create", "quota", "q", "--as=joe"]).contains("resourcequotas"));

    kubectl(&["create", "role", "r", "--verb=get,list", "--resource=pods,secrets", "--as=ann"]);
    let text = refused(&cluster, &["create", "role", "s", "--verb=get,list", "--resource=nodes", "--as=ann"]);
    assert_eq!(
        text,
        "failed to create role: roles.rbac.authorization.k8s.io \"s\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}"
            .trim_start_matches("failed to create role: ")
    );
    let escalate = r#"{"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}"#;
    let text = refused(&cluster, &["patch", "role", "r", "-p", escalate, "--as=ann"]);
    assert!(text.contains("{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"), "{text}");
    let bind = ["create", "rolebinding", "b", "--clusterrole=cluster-admin", "--user=ann", "--as=ann"];
    assert!(refused(&cluster, &bind).contains("permissions not currently held"));
    kubectl(&["create", "rolebinding", "v", "--clusterrole=view", "--user=eve", "--as=ann"]);
    // With the verbs `bind` and `escalate` they may.
    kubectl(&[
        "create",
        "role",
        "binder",
        "--verb=bind",
        "--resource=clusterroles.rbac.authorization.k8s.io",
    ]);
    kubectl(&["create", "rolebinding", "binder", "--role=binder", "--user=ann"]);
    kubectl(&bind);
    assert_eq!(kubectl(&["auth", "can-i", "delete", "secrets", "--as=ann"]).trim(), "yes");

    // Whom somebody may be seen as is a right like others.
    kubectl(&["get", "pods", "--as=admin", "--as-group=system:masters", "--as-uid=1"]);
    let kubeconfig = format!("--kubeconfig={}", with_user(&cluster, "joan").display());
    let text = refused(&cluster, &[&kubeconfig, "get", "pods", "--as=admin", "--as-group=system:masters"]);
    assert_eq!(
        text,
        "users \"admin\" is forbidden: User \"joan\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    kubectl(&[
        "create",
        "clusterrole",
        "as-joe",
        "--verb=impersonate",
        "--resource=users",
        "--resource-name=joe",
    ]);
    kubectl(&["create", "clusterrolebinding", "as-joe", "--clusterrole=as-joe", "--user=joan"]);
    kubectl(&[&kubeconfig, "create", "configmap", "b", "--as=joe"]);
    let text = refused(&cluster, &[&kubeconfig, "get", "cm", "--as=joe", "--as-group=system:masters"]);
    assert!(text.contains("cannot impersonate resource \"groups\""), "{text}");
    let text = refused(&cluster, &[&kubeconfig, "get", "cm", "--as=joe", "--as-uid=1"]);
    assert!(
        text.contains("cannot impersonate resource \"uids\" in API group \"authentication.k8s.io\""),
        "{text}"
    );
}

/// A kubeconfig for a user with a client certificate of the cluster's CA.
fn with_user(cluster: &Cluster, user: &str) -> std::path::PathBuf {
    let pki = cluster.data_dir().join("pki");
    let file = |name: &str| cluster.scratch().join(format!("{user}.{name}"));
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let output = cluster.command(program).args(arguments).output().expect("it starts");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (key, request, certificate) = (file("key"), file("csr"), file("crt"));
    let subject = format!("/CN={user}");
    let new =
        ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", &subject];
    let new = new.map(std::ffi::OsStr::new);
    run(
        "openssl",
        &[&new[..], &["-keyout".as_ref(), key.as_ref(), "-out".as_ref(), request.as_ref()]].concat(),
    );
    let (ca, ca_key) = (pki.join("ca.crt"), pki.join("ca.key"));
    let extensions = file("ext");
    std::fs::write(&extensions, "extendedKeyUsage=clientAuth\n").expect("a file");
    let sign = ["x509", "-req", "-CAcreateserial", "-days", "1", "-in"].map(std::ffi::OsStr::new);
    let serial = file("srl");
    let with: [&std::ffi::OsStr; 11] = [
        request.as_ref(),
        "-CA".as_ref(),
        ca.as_ref(),
        "-CAkey".as_ref(),
        ca_key.as_ref(),
        "-CAserial".as_ref(),
        serial.as_ref(),
        "-extfile".as_ref(),
        extensions.as_ref(),
        "-out".as_ref(),
        certificate.as_ref(),
    ];
    run("openssl", &[&sign[..], &with].concat());
    let kubeconfig = file("kubeconfig");
    std::fs::copy(cluster.data_dir().join("kubeconfig"), &kubeconfig).expect("a copy");
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let flag = format!("--kubeconfig={}", text(&kubeconfig));
    let (certificate, key) =
        (format!("--client-certificate={}", text(&certificate)), format!("--client-key={}", text(&key)));
    cluster.kubectl(&[&flag, "config", "set-credentials", user, &certificate, &key]);
    cluster.kubectl(&[&flag, "config", "set-context", "--current", "--user", user]);
    kubeconfig
}

#[test]
fn aggregated_roles_follow_their_parts() {
    let cluster = Cluster::start();
    cluster.apply(
        "---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: monitoring}, \
         aggregationRule: {clusterRoleSelectors: [{matchLabels: {to-monitoring: 'true'}}]}}",
    );
    cluster.kubectl(&["create", "clusterrole", "part", "--verb=get,list", "--resource=services,endpoints"]);
    cluster.kubectl(&["create", "clusterrolebinding", "m", "--clusterrole=monitoring", "--user=mona"]);
    let can =
        || cluster.kubectl_output(&["auth", "can-i", "list", "services", "-A", "--as=mona"]).status.success();
    assert!(!can());
    cluster.kubectl(&["label", "clusterrole", "part", "to-monitoring=true"]);
    cluster.wait("the part's rules", can);
    cluster.kubectl(&["delete", "clusterrole", "part"]);
    cluster.wait("the part's rules to go", || !can());
}

#[test]
fn who_is_not_known_sees_little() {
    let cluster = Cluster::start();
    let server = cluster.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let anonymous = |path: &str| {
        // kubectl insists on showing something; this is nothing that the server knows.
        let shown = ["--username=nobody", "--password=nothing"];
        let flags = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", server.as_str()];
        let flags = [&flags[..], &shown].concat();
        cluster.kubectl_output(&[&["get", "--raw", path], &flags[..]].concat())
    };
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let output = anonymous(path);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for path in ["/apis", "/metrics", "/openapi/v2", "/api/v1/namespaces/default/pods"] {
        let text = String::from_utf8_lossy(&anonymous(path).stderr).into_owned();
        assert!(text.contains("User \"system:anonymous\" cannot"), "{path}: {text}");
    }
}

/// Asks for pods until it is told to stop, and says what came of it. The first question goes to
/// the API by its name; kubectl finds the rest as any client in a cluster does.
const ASK: &str = "D=/var/run/secrets/kubernetes.io/serviceaccount; export HOME=/tmp;  \
                   /bin/busybox cat $D/namespace $D/ca.crt; \
                   /bin/kubectl --server=https://kubernetes.default.svc --certificate-authority=$D/ca.crt \
                   --token=$(/bin/busybox cat $D/token) get --raw /version; \
                   while true; do if /bin/kubectl get pods -o name; then echo allowed; else echo refused; fi; \
                   /bin/busybox sleep 0.2; done";

/// An image of a shell and the machine's kubectl, which is one static file.
fn pack_kubectl(cluster: &Cluster) {
    let root = cluster.scratch().join("kubectl-rootfs");
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    std::fs::create_dir_all(root.join("tmp")).expect("a directory");
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    let path = std::env::var_os("PATH").expect("a PATH");
    let kubectl = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.exists());
    std::fs::copy(kubectl.expect("kubectl is installed"), root.join("bin/kubectl")).expect("a copy");
    let root = root.to_str().expect("UTF-8");
    cluster.proa(&["image", "pack", root, "-t", "kubectl:1", "--entrypoint", "/bin/busybox"]);
}

#[test]
fn pods_speak_to_the_api_with_their_token() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    pack_kubectl(&cluster);
    cluster.kubectl(&["create", "serviceaccount", "robot"]);
    cluster.apply(&format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: asks}}, spec: {{serviceAccountName: robot, terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: 'kubectl:1', command: [/bin/busybox, sh, -c], args: [\"{ASK}\"]}}]}}}}"
    ));
    let log_has = |text: &str| {
        String::from_utf8_lossy(&cluster.kubectl_output(&["logs", "asks"]).stdout).contains(text)
    };
    cluster.wait("an answer", || log_has("refused"));
    let log = cluster.kubectl(&["logs", "asks"]);
    assert!(log.starts_with("default-----BEGIN CERTIFICATE-----") && log.contains("\"gitVersion\""), "{log}");
    assert!(
        log.contains("User \"system:serviceaccount:default:robot\" cannot list resource \"pods\""),
        "{log}"
    );
    cluster.kubectl(&["create", "role", "reader", "--verb=list", "--resource=pods"]);
    cluster.kubectl(&["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:robot"]);
    cluster.wait("the right to list pods", || cluster.kubectl(&["logs", "asks", "--tail=1"]) == "allowed\n");

    // The token ends with its account.
    cluster.kubectl(&["delete", "serviceaccount", "robot"]);
    cluster.wait("the token's end", || cluster.kubectl(&["logs", "asks", "--tail=3"]).contains("logged in"));

    // Who does not want a token gets none.
    let plain = "---\n{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {automountServiceAccountToken: false, \
                 containers: [{name: c, image: 'hello-wasm:1'}]}}";
    cluster.apply(plain);
    assert!(cluster.get("pod", "plain")["spec"].get("volumes").is_none());
    cluster.kubectl(&["patch", "sa", "default", "-p", r#"{"automountServiceAccountToken":false}"#]);
    cluster.apply(&plain.replace("automountServiceAccountToken: false, ", "").replace("plain", "bare"));
    assert!(cluster.get("pod", "bare")["spec"].get("volumes").is_none());
}

/// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#manually-create-a-long-lived-api-token-for-a-serviceaccount>
#[test]
fn tokens_in_secrets_live_as_long_as_their_account() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "serviceaccount", "build-robot"]);
    // One that nobody can fill holds up no other.
    cluster.apply(
        "---\n{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, immutable: true, \
         metadata: {name: a-stone, annotations: {kubernetes.io/service-account.name: build-robot}}}",
    );
    cluster.apply(
        "---\n{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: robot-secret, \
         annotations: {kubernetes.io/service-account.name: build-robot}}}",
    );
    let mut token = String::new();
    cluster.wait("the token in the Secret", || {
        let text =
            cluster.get("secret", "robot-secret")["data"]["token"].as_str().unwrap_or_default().to_owned();
        let decoded = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        token = String::from_utf8(decoded).expect("a token");
        !token.is_empty()
    });
    let described = cluster.kubectl(&["describe", "secret", "robot-secret"]);
    assert!(described.contains("ca.crt:") && described.contains("namespace:"), "{described}");
    let with_token = |arguments: &[&str]| {
        let server = cluster.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        let token = format!("--token={token}");
        let flags = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", &server, &token];
        cluster.kubectl_output(&[arguments, &flags[..]].concat())
    };
    let text = String::from_utf8_lossy(&with_token(&["get", "pods"]).stderr).into_owned();
    assert!(
        text.contains("User \"system:serviceaccount:default:build-robot\" cannot list resource \"pods\""),
        "{text}"
    );
    let me = with_token(&["auth", "whoami", "-o", "json"]);
    let me = String::from_utf8_lossy(&me.stdout).into_owned();
    assert!(me.contains("system:serviceaccounts:default"), "{me}");

    cluster.kubectl(&["delete", "serviceaccount", "build-robot"]);
    let text = String::from_utf8_lossy(&with_token(&["get", "pods"]).stderr).into_owned();
    assert!(text.contains("must be logged in") || text.contains("Unauthorized"), "{text}");
    cluster.wait("the Secret to go", || cluster.get("secret", "robot-secret").is_null());
}
