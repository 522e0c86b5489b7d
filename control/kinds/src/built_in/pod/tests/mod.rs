//! The rules of pods as tables: YAML in, canonical form or error texts out.

mod changes;

use expect_test::expect;

use crate::check::{created, refusals};

const BASE: &str = "{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, image: i:1}]}}";

#[test]
fn defaults() {
    created(
        "apiVersion: v1
kind: Pod
spec:
  nodeName: ''
  containers:
  - name: web
    image: host:5000/web
    args: []
    ports: [{containerPort: 80}]
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    resources: {limits: {cpu: 0.5, memory: 1024Mi}}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {tcpSocket: {port: web}, periodSeconds: 2}
  - {name: b, image: 'b@sha256:0'}
  initContainers:
  - {name: i, image: 'i:latest', restartPolicy: Always}
  volumes:
  - {name: e}
  - {name: c, configMap: {name: c}}
  - {name: s, secret: {secretName: s}}
  - {name: h, hostPath: {path: /x}}
  - name: p
    projected: {sources: [{serviceAccountToken: {path: token}}, {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}]}
  serviceAccountName: sa
status: {phase: Running}
",
        expect![[r#"
            apiVersion: v1
            kind: Pod
            metadata:
              name: x
              namespace: default
            spec:
              containers:
              - env:
                - name: IP
                  valueFrom:
                    fieldRef:
                      apiVersion: v1
                      fieldPath: status.podIP
                image: host:5000/web
                imagePullPolicy: Always
                livenessProbe:
                  failureThreshold: 3
                  httpGet:
                    path: /
                    port: 80
                    scheme: HTTP
                  periodSeconds: 10
                  successThreshold: 1
                  timeoutSeconds: 1
                name: web
                ports:
                - containerPort: 80
                  protocol: TCP
                readinessProbe:
                  failureThreshold: 3
                  periodSeconds: 2
                  successThreshold: 1
                  tcpSocket:
                    port: web
                  timeoutSeconds: 1
                resources:
                  limits:
                    cpu: 500m
                    memory: 1Gi
                  requests:
                    cpu: 500m
                    memory: 1Gi
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              - image: b@sha256:0
                imagePullPolicy: IfNotPresent
                name: b
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              enableServiceLinks: true
              initContainers:
              - image: i:latest
                imagePullPolicy: Always
                name: i
                resources: {}
                restartPolicy: Always
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              restartPolicy: Always
              schedulerName: default-scheduler
              securityContext: {}
              serviceAccount: sa
              serviceAccountName: sa
              terminationGracePeriodSeconds: 30
              tolerations:
              - effect: NoExecute
                key: node.kubernetes.io/not-ready
                operator: Exists
                tolerationSeconds: 300
              - effect: NoExecute
                key: node.kubernetes.io/unreachable
                operator: Exists
                tolerationSeconds: 300
              volumes:
              - emptyDir: {}
                name: e
              - configMap:
                  defaultMode: 420
                  name: c
                name: c
              - name: s
                secret:
                  defaultMode: 420
                  secretName: s
              - hostPath:
                  path: /x
                  type: ''
                name: h
              - name: p
                projected:
                  defaultMode: 420
                  sources:
                  - serviceAccountToken:
                      expirationSeconds: 3600
                      path: token
                  - downwardAPI:
                      items:
                      - fieldRef:
                          apiVersion: v1
                          fieldPath: metadata.labels
                        path: l
            status:
              phase: Pending
              qosClass: Burstable
        "#]],
    );
}

#[test]
fn containers() {
    refusals(
        BASE,
        &[
            "{spec: {containers: []}}",
            "{spec: {containers: [{name: '', image: ''}]}}",
            "{spec: {containers: [{name: A_b}]}}",
            "{spec: {containers: [{}, {name: a, image: x}]}}",
            "{spec: {containers: [{image: ' i'}]}}",
            "{spec: {containers: [{imagePullPolicy: Sometimes}]}}",
            "{spec: {containers: [{restartPolicy: Always}]}}",
            "{spec: {containers: [{ports: [{containerPort: 0}, {containerPort: 65536, hostPort: 70000, protocol: ICMP}]}]}}",
            "{spec: {containers: [{ports: [{containerPort: 1, name: p}, {containerPort: 2, name: p}, {containerPort: 3, name: Pp--}]}]}}",
            "{spec: {containers: [{ports: [{containerPort: 1, hostPort: 9}]}, {name: b, image: i, ports: [{containerPort: 1, hostPort: 9}]}]}}",
            "{spec: {hostNetwork: true, containers: [{ports: [{containerPort: 1, hostPort: 9}]}]}}",
            "{spec: {initContainers: [{name: a, image: i}, {name: b, image: i, restartPolicy: Never, livenessProbe: {exec: {command: [x]}}}]}}",
            "{spec: {ephemeralContainers: [{name: e, image: i}]}}",
        ],
        expect![[r#"
            spec.containers: Required value
            spec.containers[0].name: Required value
            spec.containers[0].image: Required value
            spec.containers[0].name: Invalid value: "A_b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[1].name: Duplicate value: "a"
            spec.containers[0].image: Invalid value: " i": must not have leading or trailing whitespace
            spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
            spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers
            spec.containers[0].ports[0].containerPort: Required value
            spec.containers[0].ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive
            spec.containers[0].ports[1].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.containers[0].ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
            spec.containers[0].ports[1].name: Duplicate value: "p"
            spec.containers[0].ports[2].name: Invalid value: "Pp--": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.containers[0].ports[2].name: Invalid value: "Pp--": must not contain consecutive hyphens
            spec.containers[0].ports[2].name: Invalid value: "Pp--": must not begin or end with a hyphen
            spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//9"
            spec.containers[0].ports[0].hostPort: Invalid value: 9: must match `containerPort` when `hostNetwork` is true
            spec.initContainers[0].name: Duplicate value: "a"
            spec.initContainers[1].restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.initContainers[1].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
            spec.ephemeralContainers: Forbidden: cannot be set on create
        "#]],
    );
}

#[test]
fn claims_of_resources() {
    let claims = |list: &str, more: &str| {
        format!("{{spec: {{{more}containers: [{{resources: {{claims: [{list}]}}}}]}}}}")
    };
    let known = "resourceClaims: [{name: gpu, resourceClaimName: g}, {name: fpga, resourceClaimName: f}], ";
    let init = "{spec: {initContainers: [{name: i, image: i, resources: {claims: [{name: gpu}]}}]}}";
    let all = [
        claims("{name: gpu}", ""),
        claims("{name: gpu}, {name: other}", known),
        claims("{name: ''}, {name: gpu, request: A}, {name: gpu}, {name: gpu}", known),
        init.to_owned(),
    ];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    refusals(
        BASE,
        &all,
        expect![[r#"
        spec.containers[0].resources.claims[0]: Not found: "gpu":  must be one of the names in pod.spec.resourceClaims which is empty
        spec.containers[0].resources.claims[1]: Not found: "other":  must be one of the names in pod.spec.resourceClaims: fpga, gpu
        spec.containers[0].resources.claims[0]: Required value
        spec.containers[0].resources.claims[1].request: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        spec.containers[0].resources.claims[3]: Duplicate value: "gpu"
        spec.initContainers[0].resources.claims[0]: Not found: "gpu":  must be one of the names in pod.spec.resourceClaims which is empty
    "#]],
    );
}

#[test]
fn environment() {
    let env = |entries: &str| format!("{{spec: {{containers: [{{env: [{entries}]}}]}}}}");
    let changes = [
        env("{name: ''}"),
        env("{name: a=b}"),
        env("{name: A, valueFrom: {}}"),
        env("{name: A, value: x, valueFrom: {secretKeyRef: {name: s, key: k}}}"),
        env("{name: A, valueFrom: {secretKeyRef: {name: s, key: k}, configMapKeyRef: {name: s, key: ''}}}"),
        env("{name: A, valueFrom: {fieldRef: {fieldPath: spec.nodename}}}"),
        env("{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}"),
        env("{name: A, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''a b'']'}}}"),
        env("{name: A, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}"),
        env("{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1Mi}}}"),
        "{spec: {containers: [{envFrom: [{}, {configMapRef: {name: ''}}, {configMapRef: {name: A}, secretRef: {name: b}}]}]}}"
            .to_owned(),
    ];
    refusals(
        BASE,
        &changes.each_ref().map(String::as_str),
        expect![[r#"
        spec.containers[0].env[0].name: Required value
        spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='
        spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`
        spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty
        spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value
        spec.containers[0].env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time
        spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nodename": error converting fieldPath: field label not supported: spec.nodename
        spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
        spec.containers[0].env[0].valueFrom.fieldRef: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"
        spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource
        spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
        spec.containers[0].envFrom[1].configMapRef.name: Required value
        spec.containers[0].envFrom[2].configMapRef.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        spec.containers[0].envFrom: Invalid value: "": may not have more than one field specified at a time
    "#]],
    );
}

#[test]
fn volumes() {
    refusals(
        BASE,
        &[
            "{spec: {containers: [{volumeMounts: [{name: v, mountPath: /a}]}]}}",
            "{spec: {volumes: [{name: v}], containers: [{volumeMounts: [{name: v, mountPath: /a}, {name: v, mountPath: /a, subPath: ../b}]}]}}",
            "{spec: {volumes: [{name: v}], containers: [{volumeMounts: [{name: v, mountPath: ''}, {name: v, mountPath: /b, mountPropagation: Bidirectional}]}]}}",
            "{spec: {volumes: [{name: v}, {name: v}, {name: V}, {name: ''}]}}",
            "{spec: {volumes: [{name: v, emptyDir: {}, hostPath: {path: /a}}]}}",
            "{spec: {volumes: [{name: v, hostPath: {path: '/a/../b', type: Thing}}, {name: w, hostPath: {path: ''}}]}}",
            "{spec: {volumes: [{name: v, configMap: {name: '', defaultMode: 512, items: [{key: '', path: /abs}, {key: k, path: ..x}]}}]}}",
            "{spec: {volumes: [{name: v, secret: {secretName: ''}}, {name: p, persistentVolumeClaim: {claimName: ''}}]}}",
            "{spec: {serviceAccountName: s, volumes: [{name: v, projected: {sources: [{secret: {name: s, items: [{key: k, path: p}]}}, {configMap: {name: c, items: [{key: k, path: p}]}, serviceAccountToken: {path: t, expirationSeconds: 5}}]}}]}}",
            "{spec: {volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}}",
            "{spec: {volumes: [{name: v, downwardAPI: {items: [{path: a}, {path: b, fieldRef: {fieldPath: spec.nodeName}}, {path: c, resourceFieldRef: {resource: limits.cpu}}]}}]}}",
        ],
        expect![[r#"
            spec.containers[0].volumeMounts[0].name: Not found: "v"
            spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
            spec.containers[0].volumeMounts.subPath: Invalid value: "../b": must not contain '..'
            spec.containers[0].volumeMounts[0].mountPath: Required value
            spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers
            spec.volumes[1].name: Duplicate value: "v"
            spec.volumes[2].name: Invalid value: "V": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.volumes[3].name: Required value
            spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type
            spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'
            spec.volumes[0].hostPath.type: Unsupported value: "Thing": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
            spec.volumes[1].hostPath.path: Required value
            spec.volumes[0].configMap.name: Required value
            spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
            spec.volumes[0].configMap.items[0].key: Required value
            spec.volumes[0].configMap.items[0].path: Invalid value: "/abs": must be a relative path
            spec.volumes[0].configMap.items[1].path: Invalid value: "..x": must not start with '..'
            spec.volumes[0].secret.secretName: Required value
            spec.volumes[1].persistentVolumeClaim.claimName: Required value
            spec.volumes[0].projected.sources[1]: Forbidden: may not specify more than 1 volume type per source
            spec.volumes[0].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes
            spec.volumes[0].projected: Invalid value: "c": conflicting duplicate paths
            spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set
            spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required
            spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"
            spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value
        "#]],
    );
}

#[test]
fn probes_and_hooks() {
    let probe = |probe: &str| format!("{{spec: {{containers: [{{{probe}}}]}}}}");
    let changes = [
        probe("livenessProbe: {}"),
        probe("livenessProbe: {exec: {command: []}, httpGet: {port: 0}}"),
        probe(
            "livenessProbe: {httpGet: {port: A, scheme: ftp, httpHeaders: [{name: 'a b', value: ''}]}, successThreshold: 2}",
        ),
        probe(
            "readinessProbe: {tcpSocket: {port: 70000}, terminationGracePeriodSeconds: 3, periodSeconds: -1}",
        ),
        probe("startupProbe: {grpc: {port: 0}, terminationGracePeriodSeconds: 0}"),
        probe("lifecycle: {preStop: {sleep: {seconds: 31}}, postStart: {}}"),
        probe("lifecycle: {stopSignal: SIGTERM}"),
        "{spec: {os: {name: linux}, containers: [{lifecycle: {stopSignal: NONSENSE}}]}}".to_owned(),
        "{spec: {os: {name: linux}, containers: [{lifecycle: {stopSignal: SIGRTMIN+3}}]}}".to_owned(),
    ];
    refusals(
        BASE,
        &changes.each_ref().map(String::as_str),
        expect![[r#"
        spec.containers[0].livenessProbe: Required value: must specify a handler type
        spec.containers[0].livenessProbe.exec.command: Required value
        spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type
        spec.containers[0].livenessProbe.httpGet.port: Invalid value: "A": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
        spec.containers[0].livenessProbe.httpGet.port: Invalid value: "A": must contain at least one letter (a-z)
        spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: "ftp": supported values: "HTTP", "HTTPS"
        spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')
        spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
        spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 70000: must be between 1 and 65535, inclusive
        spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
        spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set for readinessProbes
        spec.containers[0].startupProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive
        spec.containers[0].startupProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0
        spec.containers[0].lifecycle.postStart: Required value: must specify a handler type
        spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)
        spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`
        spec.containers[0].lifecycle.stopSignal: Unsupported value: "NONSENSE": supported values: "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGIOT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPOLL", "SIGPWR", "SIGSYS", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+2", "SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7", "SIGRTMIN+8", "SIGRTMIN+9", "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX-13", "SIGRTMAX-12", "SIGRTMAX-11", "SIGRTMAX-10", "SIGRTMAX-9", "SIGRTMAX-8", "SIGRTMAX-7", "SIGRTMAX-6", "SIGRTMAX-5", "SIGRTMAX-4", "SIGRTMAX-3", "SIGRTMAX-2", "SIGRTMAX-1", "SIGRTMAX"
        accepted: {"spec":{"os":{"name":"linux"},"containers":[{"lifecycle":{"stopSignal":"SIGRTMIN+3"}}]}}
    "#]],
    );
}

#[test]
fn resources() {
    let resources = |r: &str| format!("{{spec: {{containers: [{{resources: {{{r}}}}}]}}}}");
    let changes = [
        resources("requests: {memory: 128Mi}, limits: {memory: 64Mi}"),
        resources("requests: {cpu: -1}"),
        resources("limits: {gpu: 1}"),
        resources("limits: {storage: 1}"),
        resources("limits: {example.com/gpu: 1.5}"),
        resources("requests: {example.com/gpu: 1}"),
        resources("requests: {example.com/gpu: 1}, limits: {example.com/gpu: 2}"),
        resources("limits: {hugepages-2Mi: 4Mi}"),
        resources("limits: {cpu: lots}"),
    ];
    refusals(
        BASE,
        &changes.each_ref().map(String::as_str),
        expect![[r#"
        spec.containers[0].resources.requests: Invalid value: "128Mi": must be less than or equal to memory limit of 64Mi
        spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0
        spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
        spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers
        spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
        spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers
        spec.containers[0].resources.limits[storage]: Invalid value: "storage": must be a standard resource for containers
        spec.containers[0].resources.requests[storage]: Invalid value: "storage": must be a standard resource for containers
        spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer
        spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "1500m": must be an integer
        spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources
        spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2
        spec.containers[0].resources: Forbidden: HugePages require cpu or memory
        400 Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
    "#]],
    );
}

#[test]
fn the_pod_as_a_whole() {
    refusals(
        BASE,
        &[
            "{metadata: {name: Bad}}",
            "{metadata: {name: ''}}",
            "{metadata: {namespace: ''}}",
            "{metadata: {labels: {'a/b/c': x, k: 'a b'}}}",
            "{metadata: {annotations: {'a b': x}}}",
            "{metadata: {finalizers: [plain, 'a b/c', orphan, foregroundDeletion]}}",
            "{metadata: {ownerReferences: [{apiVersion: v1, kind: A, name: a, uid: '1', controller: true}, {apiVersion: v1, kind: B, name: '', uid: '2', controller: true}]}}",
            "{spec: {restartPolicy: Sometimes, dnsPolicy: Best}}",
            "{spec: {dnsPolicy: None}}",
            "{spec: {dnsPolicy: None, dnsConfig: {searches: [a]}}}",
            "{spec: {dnsConfig: {nameservers: [x, 1.1.1.1, 2.2.2.2, 3.3.3.3], searches: ['a..b'], options: [{value: x}]}}}",
            "{spec: {nodeSelector: {'a b': c}, nodeName: N, hostname: a.b, subdomain: B, serviceAccountName: S}}",
            "{spec: {activeDeadlineSeconds: 0}}",
            "{spec: {hostAliases: [{ip: x, hostnames: ['A']}]}}",
            "{spec: {tolerations: [{key: a, operator: Exists, value: b}, {operator: Equal}, {key: a, effect: Never}, {key: a, tolerationSeconds: 3}, {key: a, operator: Near}]}}",
            "{spec: {topologySpreadConstraints: [{maxSkew: 0, topologyKey: '', whenUnsatisfiable: Never}, {maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, minDomains: 2}, {maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway}]}}",
            "{spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}, preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, preference: {matchExpressions: [{key: a, operator: In}, {key: a, operator: Gt, values: ['1', '2']}]}}]}}}}",
            "{spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: ''}]}}}}",
            "{spec: {securityContext: {runAsUser: -1, fsGroup: 3000000000, sysctls: [{name: 'A b', value: ''}], seccompProfile: {type: Localhost}}}}",
            "{spec: {hostPID: true, shareProcessNamespace: true, hostUsers: false}}",
            "{spec: {containers: [{securityContext: {privileged: true, allowPrivilegeEscalation: false}}]}}",
            "{spec: {readinessGates: [{conditionType: 'a b'}], schedulingGates: [{name: a}, {name: a}], nodeName: n}}",
        ],
        expect![[r#"
            metadata.name: Invalid value: "Bad": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            metadata.name: Required value: name or generateName is required
            metadata.namespace: Required value
            metadata.labels: Invalid value: "a/b/c": a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            metadata.labels: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            metadata.annotations: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            metadata.finalizers: Invalid value: "a b/c": prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            metadata.finalizers: Invalid value: ["plain","a b/c","orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set
            metadata.finalizers[0]: Invalid value: "plain": name is neither a standard finalizer name nor is it fully qualified
            metadata.ownerReferences.name: Invalid value: "": must not be empty
            metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","controller":true,"kind":"A","name":"a","uid":"1"},{"apiVersion":"v1","controller":true,"kind":"B","name":"","uid":"2"}]: Only one reference can have Controller set to true. Found "true" in references for A/a and B/
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.dnsPolicy: Unsupported value: "Best": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"
            spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
            spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None
            spec.dnsConfig.nameservers: Invalid value: ["x","1.1.1.1","2.2.2.2","3.3.3.3"]: must not have more than 3 nameservers
            spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.dnsConfig.searches[0]: Invalid value: "a..b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.dnsConfig.options[0]: Required value: must not be empty
            spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.serviceAccountName: Invalid value: "S": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.nodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.hostname: Invalid value: "a.b": must not contain dots
            spec.subdomain: Invalid value: "B": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
            spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.hostAliases[0].hostnames[0]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.tolerations[0].operator: Invalid value: "b": value must be empty when `operator` is 'Exists'
            spec.tolerations[1].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[2].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.tolerations[3].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set
            spec.tolerations[4].operator: Unsupported value: "Near": supported values: "Equal", "Exists"
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty
            spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Never": supported values: "DoNotSchedule", "ScheduleAnyway"
            spec.topologySpreadConstraints[1].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway
            spec.topologySpreadConstraints[2].{topologyKey, whenUnsatisfiable}: Duplicate value: "{a, ScheduleAnyway}"
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[1].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.securityContext.fsGroup: Invalid value: 3000000000: must be between 0 and 2147483647, inclusive
            spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.securityContext.sysctls[0].name: Invalid value: "A b": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost
            spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled
            spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false
            spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"privileged":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.readinessGates[0].conditionType: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.schedulingGates[1]: Duplicate value: "a"
            spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared
        "#]],
    );
}

#[test]
fn label_keys_of_affinity_and_spread() {
    let with_labels = "{apiVersion: v1, kind: Pod, metadata: {labels: {a: x, b: y}}, spec: {containers: [{name: a, image: i:1}]}}";
    refusals(
        with_labels,
        &[
            "{spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [a]}]}}",
            "{spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [a, 'b c'], labelSelector: {matchLabels: {a: x}}, nodeTaintsPolicy: Never}]}}",
            "{spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z, matchLabelKeys: [a], mismatchLabelKeys: [a], labelSelector: {}}]}}}}",
        ],
        expect![[r#"
            spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set
            spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: "Never": supported values: "Honor", "Ignore"
            spec.topologySpreadConstraints[0].matchLabelKeys[1]: Invalid value: "b c": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.topologySpreadConstraints[0][0]: Invalid value: "a": exists in both matchLabelKeys and labelSelector
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0][0]: Invalid value: "a": exists in both matchLabelKeys and labelSelector
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid value: "a": exists in both matchLabelKeys and mismatchLabelKeys
        "#]],
    );
    created(
        "apiVersion: v1
kind: Pod
metadata: {labels: {a: x, b: y}}
spec:
  containers: [{name: a, image: 'i:1'}]
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 1
        podAffinityTerm: {topologyKey: z, matchLabelKeys: [a, c], mismatchLabelKeys: [b], labelSelector: {}}
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [b], labelSelector: {matchLabels: {k: v}}}
",
        expect![[r#"
            apiVersion: v1
            kind: Pod
            metadata:
              labels:
                a: x
                b: y
              name: x
              namespace: default
            spec:
              affinity:
                podAntiAffinity:
                  preferredDuringSchedulingIgnoredDuringExecution:
                  - podAffinityTerm:
                      labelSelector:
                        matchExpressions:
                        - key: a
                          operator: In
                          values:
                          - x
                        - key: b
                          operator: NotIn
                          values:
                          - y
                      matchLabelKeys:
                      - a
                      - c
                      mismatchLabelKeys:
                      - b
                      topologyKey: z
                    weight: 1
              containers:
              - image: i:1
                imagePullPolicy: IfNotPresent
                name: a
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              enableServiceLinks: true
              restartPolicy: Always
              schedulerName: default-scheduler
              securityContext: {}
              terminationGracePeriodSeconds: 30
              tolerations:
              - effect: NoExecute
                key: node.kubernetes.io/not-ready
                operator: Exists
                tolerationSeconds: 300
              - effect: NoExecute
                key: node.kubernetes.io/unreachable
                operator: Exists
                tolerationSeconds: 300
              topologySpreadConstraints:
              - labelSelector:
                  matchExpressions:
                  - key: b
                    operator: In
                    values:
                    - y
                  matchLabels:
                    k: v
                matchLabelKeys:
                - b
                maxSkew: 1
                topologyKey: z
                whenUnsatisfiable: DoNotSchedule
            status:
              phase: Pending
              qosClass: BestEffort
        "#]],
    );
}
