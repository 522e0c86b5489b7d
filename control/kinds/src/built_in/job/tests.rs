//! Tables of the rules of Jobs.

use expect_test::expect;

use crate::check::{created, refusals, update_refusals};

const BASE: &str = "{apiVersion: batch/v1, kind: Job, metadata: {uid: u}, spec: {template: \
                    {spec: {restartPolicy: Never, containers: [{name: c, image: i:1}]}}}}";

#[test]
fn defaults() {
    created(
        BASE,
        expect![[r#"
        apiVersion: batch/v1
        kind: Job
        metadata:
          labels:
            batch.kubernetes.io/controller-uid: u
            batch.kubernetes.io/job-name: x
            controller-uid: u
            job-name: x
          name: x
          namespace: default
          uid: u
        spec:
          backoffLimit: 6
          completionMode: NonIndexed
          completions: 1
          parallelism: 1
          podReplacementPolicy: TerminatingOrFailed
          selector:
            matchLabels:
              batch.kubernetes.io/controller-uid: u
          suspend: false
          template:
            metadata:
              labels:
                batch.kubernetes.io/controller-uid: u
                batch.kubernetes.io/job-name: x
                controller-uid: u
                job-name: x
            spec:
              containers:
              - image: i:1
                imagePullPolicy: IfNotPresent
                name: c
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              restartPolicy: Never
              schedulerName: default-scheduler
              securityContext: {}
              terminationGracePeriodSeconds: 30
        status: {}
    "#]],
    );
    let queue = BASE.replacen(
        "spec: {",
        "spec: {parallelism: 3, backoffLimit: 2, podFailurePolicy: {rules: [{action: \
                                    Ignore, onPodConditions: [{type: DisruptionTarget}]}]}, ",
        1,
    );
    created(
        &queue,
        expect![[r#"
        apiVersion: batch/v1
        kind: Job
        metadata:
          labels:
            batch.kubernetes.io/controller-uid: u
            batch.kubernetes.io/job-name: x
            controller-uid: u
            job-name: x
          name: x
          namespace: default
          uid: u
        spec:
          backoffLimit: 2
          completionMode: NonIndexed
          parallelism: 3
          podFailurePolicy:
            rules:
            - action: Ignore
              onPodConditions:
              - status: 'True'
                type: DisruptionTarget
          podReplacementPolicy: Failed
          selector:
            matchLabels:
              batch.kubernetes.io/controller-uid: u
          suspend: false
          template:
            metadata:
              labels:
                batch.kubernetes.io/controller-uid: u
                batch.kubernetes.io/job-name: x
                controller-uid: u
                job-name: x
            spec:
              containers:
              - image: i:1
                imagePullPolicy: IfNotPresent
                name: c
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              restartPolicy: Never
              schedulerName: default-scheduler
              securityContext: {}
              terminationGracePeriodSeconds: 30
        status: {}
    "#]],
    );
}

#[test]
fn what_is_wrong() {
    refusals(
        BASE,
        &[
            "{spec: {template: {spec: {restartPolicy: null}}}}",
            "{spec: {template: {spec: {restartPolicy: Always}}}}",
            "{spec: {parallelism: -1, completions: -1, backoffLimit: -1, activeDeadlineSeconds: -1, ttlSecondsAfterFinished: -1}}",
            "{spec: {selector: {matchLabels: {a: b}}}}",
            "{spec: {manualSelector: true}}",
            "{spec: {manualSelector: true, selector: {matchLabels: {a: b}}}}",
            "{spec: {template: {metadata: {labels: {job-name: other}}}}}",
            "{spec: {completionMode: Sorted}}",
            "{spec: {completionMode: Indexed, parallelism: 2}}",
            "{spec: {completionMode: Indexed, completions: 3, parallelism: 100001}}",
            "{spec: {backoffLimitPerIndex: 1}}",
            "{spec: {maxFailedIndexes: 1}}",
            "{spec: {completionMode: Indexed, completions: 3, backoffLimitPerIndex: 1, maxFailedIndexes: 4}}",
            "{spec: {managedBy: me}}",
            "{spec: {podReplacementPolicy: Always}}",
        ],
        expect![[r#"
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.completions: Invalid value: -1: must be greater than or equal to 0
            spec.activeDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0
            spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0
            spec.ttlSecondsAfterFinished: Invalid value: -1: must be greater than or equal to 0
            spec.template.metadata.labels: Invalid value: {"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"x"}: `selector` does not match template `labels`
            spec.selector: Invalid value: {"matchLabels":{"a":"b","batch.kubernetes.io/controller-uid":"u"}}: `selector` not auto-generated
            spec.selector: Required value
            spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`
            spec.template.metadata.labels: Invalid value: "other": must be 'x'
            spec.completionMode: Unsupported value: "Sorted": supported values: "NonIndexed", "Indexed"
            spec.completions: Required value: when completion mode is Indexed
            spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed
            spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode
            spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified
            spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode
            spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions
            spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")
            spec.podReplacementPolicy: Unsupported value: "Always": supported values: "Failed", "TerminatingOrFailed"
        "#]],
    );
}

#[test]
fn what_is_wrong_with_policies() {
    refusals(
        BASE,
        &[
            "{spec: {podFailurePolicy: {rules: [{action: Wait}]}}}",
            "{spec: {podFailurePolicy: {rules: [{action: FailIndex, onPodConditions: [{type: DisruptionTarget}]}]}}}",
            "{spec: {podFailurePolicy: {rules: [{action: FailJob, onPodConditions: [{type: X, status: Maybe}], onExitCodes: {operator: In, values: [1]}}]}}}",
            "{spec: {podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: x, operator: In, values: [3, 0, 3]}}]}}}",
            "{spec: {podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: Near, values: []}}]}}}",
            "{spec: {podReplacementPolicy: TerminatingOrFailed, podFailurePolicy: {rules: []}}}",
            "{spec: {podFailurePolicy: {rules: []}, template: {spec: {restartPolicy: OnFailure}}}}",
            "{spec: {successPolicy: {rules: [{succeededCount: 1}]}}}",
            "{spec: {completionMode: Indexed, completions: 5, successPolicy: {rules: []}}}",
            "{spec: {completionMode: Indexed, completions: 5, successPolicy: {rules: [{}, {succeededCount: 6}, {succeededCount: -1}]}}}",
            "{spec: {completionMode: Indexed, completions: 5, successPolicy: {rules: [{succeededIndexes: '0-2', succeededCount: 4}, {succeededIndexes: '3,1'}, {succeededIndexes: '4-5'}, {succeededIndexes: 'x'}]}}}",
        ],
        expect![[r#"
            spec.podFailurePolicy.rules[0].action: Unsupported value: "Wait": supported values: "Count", "FailIndex", "FailJob", "Ignore"
            spec.podFailurePolicy.rules[0]: Invalid value: "": specifying one of OnExitCodes and OnPodConditions is required
            spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set
            spec.podFailurePolicy.rules[0]: Invalid value: "": specifying both OnExitCodes and OnPodConditions is not supported
            spec.podFailurePolicy.rules[0].onPodConditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
            spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template
            spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator
            spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3
            spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered
            spec.podFailurePolicy.rules[0].onExitCodes.operator: Unsupported value: "Near": supported values: "In", "NotIn"
            spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: []: at least one value is required
            spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"
            spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified
            spec.successPolicy: Invalid value: {"rules":[{"succeededCount":1}]}: requires indexed completion mode
            spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified
            spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified
            spec.successPolicy.rules[1].succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)
            spec.successPolicy.rules[2].succeededCount: Invalid value: -1: must be greater than or equal to 0
            spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)
            spec.successPolicy.rules[1].succeededIndexes: Invalid value: "3,1": error parsing succeededIndexes: non-increasing order, previous: 3, current: 1
            spec.successPolicy.rules[2].succeededIndexes: Invalid value: "4-5": error parsing succeededIndexes: too large index: "4-5"
            spec.successPolicy.rules[3].succeededIndexes: Invalid value: "x": error parsing succeededIndexes: cannot convert string to integer for index: "x"
        "#]],
    );
}

#[test]
fn what_may_change() {
    update_refusals(
        BASE,
        &[
            "{spec: {parallelism: 0, backoffLimit: 1, activeDeadlineSeconds: 5, suspend: true, ttlSecondsAfterFinished: 1}}",
            "{spec: {completions: 2}}",
            "{spec: {completionMode: Indexed}}",
            "{spec: {selector: {matchLabels: {a: b}}}}",
            "{spec: {template: {spec: {containers: [{image: j}]}}}}",
            "{spec: {template: {spec: {nodeSelector: {a: b}}}}}",
            "{spec: {managedBy: a.b/c}}",
        ],
        expect![[r#"
            accepted: {"spec":{"parallelism":0,"backoffLimit":1,"activeDeadlineSeconds":5,"suspend":true,"ttlSecondsAfterFinished":1}}
            spec.completions: Invalid value: 2: field is immutable
            spec.completionMode: Invalid value: "Indexed": field is immutable
            spec.template.metadata.labels: Invalid value: {"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"x"}: `selector` does not match template `labels`
            spec.selector: Invalid value: {"matchLabels":{"a":"b","batch.kubernetes.io/controller-uid":"u"}}: field is immutable
            spec.template: Invalid value: {"metadata":{"labels":{"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"x"}},"spec":{"containers":[{"image":"j","imagePullPolicy":"IfNotPresent","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"Never","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}: field is immutable
            spec.template: Invalid value: {"metadata":{"labels":{"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"x"}},"spec":{"containers":[{"image":"i:1","imagePullPolicy":"IfNotPresent","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","nodeSelector":{"a":"b"},"restartPolicy":"Never","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}: field is immutable
            spec.managedBy: Invalid value: "a.b/c": field is immutable
        "#]],
    );
    let indexed = BASE.replacen(
        "spec: {",
        "spec: {completionMode: Indexed, completions: 2, parallelism: 2, suspend: true, ",
        1,
    );
    update_refusals(
        &indexed,
        &[
            "{spec: {completions: 3, parallelism: 3}}",
            "{spec: {completions: 3}}",
            "{spec: {template: {spec: {nodeSelector: {a: b}}, metadata: {annotations: {a: b}}}}}",
            "{spec: {template: {spec: {containers: [{image: j}]}}}}",
        ],
        expect![[r#"
            accepted: {"spec":{"completions":3,"parallelism":3}}
            spec.completions: Invalid value: 3: field can only be modified in tandem with spec.parallelism
            accepted: {"spec":{"template":{"spec":{"nodeSelector":{"a":"b"}},"metadata":{"annotations":{"a":"b"}}}}}
            spec.template: Invalid value: {"metadata":{"labels":{"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"x","controller-uid":"u","job-name":"x"}},"spec":{"containers":[{"image":"j","imagePullPolicy":"IfNotPresent","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"Never","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}: field is immutable
        "#]],
    );
}
