//! Manifests as older books and blogs have them, with the machine's kubectl and with 1.20: each is
//! created, read, patched, watched and deleted in the version it is written in, and is one object with
//! today's.

mod cluster;

use std::path::PathBuf;

use cluster::Cluster;
use serde_json::Value;

/// A manifest, and the resource that it is of today.
struct Manifest {
    text: &'static str,
    today: &'static str,
}

const MANIFESTS: &[Manifest] = &[
    Manifest {
        text: "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: oldest}\nspec: {replicas: 0, template: {metadata: {labels: {app: oldest}}, spec: {containers: [{name: c, image: 'none:1'}]}}}",
        today: "deployments.v1.apps",
    },
    Manifest {
        text: "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: old}\nspec: {replicas: 0, template: {metadata: {labels: {app: old}}, spec: {containers: [{name: c, image: 'none:1'}]}}}",
        today: "deployments.v1.apps",
    },
    Manifest {
        text: "apiVersion: apps/v1beta2\nkind: Deployment\nmetadata: {name: older}\nspec: {replicas: 0, selector: {matchLabels: {app: older}}, template: {metadata: {labels: {app: older}}, spec: {containers: [{name: c, image: 'none:1'}]}}}",
        today: "deployments.v1.apps",
    },
    Manifest {
        text: "apiVersion: extensions/v1beta1\nkind: ReplicaSet\nmetadata: {name: set}\nspec: {replicas: 0, template: {metadata: {labels: {app: set}}, spec: {containers: [{name: c, image: 'none:1'}]}}}",
        today: "replicasets.v1.apps",
    },
    Manifest {
        text: "apiVersion: extensions/v1beta1\nkind: DaemonSet\nmetadata: {name: agent}\nspec: {template: {metadata: {labels: {app: agent}}, spec: {nodeSelector: {there: none}, containers: [{name: c, image: 'none:1'}]}}}",
        today: "daemonsets.v1.apps",
    },
    Manifest {
        text: "apiVersion: apps/v1beta1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {replicas: 0, serviceName: db, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: 'none:1'}]}}}",
        today: "statefulsets.v1.apps",
    },
    Manifest {
        text: "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: front}\nspec: {rules: [{host: a.example, http: {paths: [{path: /, backend: {serviceName: web, servicePort: 80}}]}}]}",
        today: "ingresses.v1.networking.k8s.io",
    },
    Manifest {
        text: "apiVersion: networking.k8s.io/v1beta1\nkind: Ingress\nmetadata: {name: front2}\nspec: {backend: {serviceName: web, servicePort: http}}",
        today: "ingresses.v1.networking.k8s.io",
    },
    Manifest {
        text: "apiVersion: batch/v1beta1\nkind: CronJob\nmetadata: {name: nightly}\nspec: {schedule: '0 3 * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'none:1'}]}}}}}",
        today: "cronjobs.v1.batch",
    },
    Manifest {
        text: "apiVersion: batch/v2alpha1\nkind: CronJob\nmetadata: {name: weekly}\nspec: {schedule: '0 3 * * 0', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'none:1'}]}}}}}",
        today: "cronjobs.v1.batch",
    },
    Manifest {
        text: "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: budget}\nspec: {minAvailable: 1, selector: {matchLabels: {app: db}}}",
        today: "poddisruptionbudgets.v1.policy",
    },
    Manifest {
        text: "apiVersion: autoscaling/v2beta1\nkind: HorizontalPodAutoscaler\nmetadata: {name: sizes}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, targetAverageUtilization: 50}}]}",
        today: "horizontalpodautoscalers.v2.autoscaling",
    },
    Manifest {
        text: "apiVersion: autoscaling/v2beta2\nkind: HorizontalPodAutoscaler\nmetadata: {name: sizes2}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}",
        today: "horizontalpodautoscalers.v2.autoscaling",
    },
    Manifest {
        text: "apiVersion: rbac.authorization.k8s.io/v1beta1\nkind: Role\nmetadata: {name: reader}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]",
        today: "roles.v1.rbac.authorization.k8s.io",
    },
    Manifest {
        text: "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: slice}\naddressType: IPv4\nendpoints: [{addresses: [192.0.2.7], topology: {kubernetes.io/hostname: node-7}}]\nports: [{name: http, port: 80, protocol: TCP}]",
        today: "endpointslices.v1.discovery.k8s.io",
    },
];

#[test]
fn old_manifests_with_the_machines_kubectl() {
    manifests(&Cluster::start());
}

#[test]
fn old_manifests_with_kubectl_1_20() {
    let path = std::env::var_os("PROA_TEST_KUBECTL_1_20").map(PathBuf::from);
    let path = path.unwrap_or_else(|| cluster::target_dir().join("tools/kubectl-1.20/usr/bin/kubectl"));
    manifests(&Cluster::start().with_kubectl(&path));
}

#[test]
fn old_versions_can_be_left_out() {
    let cluster = Cluster::start_with(&["--legacy-api=false"]);
    let output = cluster.kubectl_stdin(&["apply", "-f", "-"], MANIFESTS[0].text);
    assert!(!output.status.success(), "{output:?}");
    assert!(!cluster.kubectl(&["api-versions"]).contains("extensions/v1beta1"));
}

fn manifests(cluster: &Cluster) {
    let preferred: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/apis"])).expect("JSON");
    let groups = preferred["groups"].as_array().expect("groups");
    let apps = groups.iter().find(|group| group["name"] == "apps").expect("apps");
    assert_eq!(apps["preferredVersion"]["version"], "v1");
    for manifest in MANIFESTS {
        one(cluster, manifest);
    }
}

fn one(cluster: &Cluster, manifest: &Manifest) {
    let word = |member: &str| {
        let rest = manifest.text.split_once(&format!("{member}: ")).expect("the member").1;
        rest.split(['\n', ',', '}']).next().expect("a word").to_owned()
    };
    let (api_version, kind, name) = (word("apiVersion"), word("kind"), word("name"));
    let (group, version) = api_version.split_once('/').expect("a group");
    let plural = manifest.today.split('.').next().expect("a resource");
    let old = format!("{plural}.{version}.{group}");

    // kubectl takes for a change what the server has filled in, in fields that it replaces as a whole.
    for said in [&["created"][..], &["unchanged", "configured"]] {
        let output = cluster.kubectl_stdin(&["apply", "-f", "-"], manifest.text);
        let (text, warned) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_said = said.iter().any(|said| text.contains(said));
        assert!(output.status.success() && is_said, "{api_version} {kind}: {output:?}");
        let warning = format!("Warning: {api_version} {kind} is deprecated in v1.");
        assert!(warned.contains(&warning), "{api_version} {kind}: {warned}");
    }
    let get = |resource: &str| -> Value {
        serde_json::from_str(&cluster.kubectl(&["get", resource, &name, "-o", "json"])).expect("JSON")
    };
    let (before, today) = (get(&old), get(manifest.today));
    assert_eq!(before["apiVersion"], api_version);
    assert_ne!(today["apiVersion"], api_version);
    assert_eq!(before["metadata"]["uid"], today["metadata"]["uid"], "{api_version} {kind} is one object");

    cluster.kubectl(&[
        "patch",
        &old,
        &name,
        "--type=merge",
        "-p",
        r#"{"metadata":{"annotations":{"tried":"yes"}}}"#,
    ]);
    assert_eq!(get(manifest.today)["metadata"]["annotations"]["tried"], "yes");
    cluster.kubectl(&["annotate", manifest.today, &name, "tried=again", "--overwrite"]);
    assert_eq!(get(&old)["metadata"]["annotations"]["tried"], "again");

    let path = format!("/apis/{api_version}/namespaces/default/{plural}?watch=1&timeoutSeconds=1");
    let watched = cluster.kubectl(&["get", "--raw", &path]);
    let seen = watched.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
    let mine: Vec<Value> =
        seen.filter(|event| event["object"]["metadata"]["name"] == name.as_str()).collect();
    assert!(!mine.is_empty(), "{api_version} {kind} is watched: {watched}");
    assert!(mine.iter().all(|event| event["object"]["apiVersion"] == api_version.as_str()), "{watched}");

    cluster.kubectl(&["delete", &old, &name]);
    let gone = cluster.kubectl_fails(&["get", manifest.today, &name]);
    assert!(gone.contains("NotFound"), "{gone}");
}
