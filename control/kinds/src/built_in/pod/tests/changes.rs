//! What may change of a pod that is there.

use expect_test::expect;

use super::BASE;
use crate::Part;
use crate::check::{update_refusals, updated};

#[test]
fn what_may_change() {
    update_refusals(
        "{apiVersion: v1, kind: Pod, spec: {activeDeadlineSeconds: 9, containers: [{name: a, image: i:1}]}}",
        &[
            "{spec: {containers: [{image: i:2}]}}",
            "{spec: {activeDeadlineSeconds: 8}}",
            "{spec: {tolerations: [{}, {}, {key: a, operator: Exists}]}}",
            "{metadata: {labels: {a: b}, creationTimestamp: '2030-01-01T00:00:00Z', uid: u}}",
            "{metadata: {name: other, namespace: other}}",
            "{metadata: {deletionTimestamp: '2030-01-01T00:00:00Z'}}",
            "{spec: {activeDeadlineSeconds: 10}}",
            "{spec: {activeDeadlineSeconds: null}}",
            "{spec: {containers: [{}, {name: b, image: i}]}}",
            "{spec: {tolerations: []}}",
            "{spec: {nodeName: n, containers: [{command: [x]}]}}",
            "{spec: {schedulingGates: [{name: g}]}}",
            "{status: {phase: Running}}",
        ],
        expect![[r#"
            accepted: {"spec":{"containers":[{"image":"i:2"}]}}
            accepted: {"spec":{"activeDeadlineSeconds":8}}
            accepted: {"spec":{"tolerations":[{},{},{"key":"a","operator":"Exists"}]}}
            metadata.uid: Invalid value: "u": field is immutable
            metadata.name: Invalid value: "other": field is immutable
            metadata.namespace: Invalid value: "other": field is immutable
            metadata.deletionTimestamp: Invalid value: "2030-01-01T00:00:00Z": field is immutable
            spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value
            spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value
            spec.containers: Forbidden: pod updates may not add or remove containers
            accepted: {"spec":{"tolerations":[]}}
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
              spec.containers[0].command:
            -   null
            +   ["x"]
              spec.nodeName:
            -   null
            +   "n"
            spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'
            accepted: {"status":{"phase":"Running"}}
        "#]],
    );
}

#[test]
fn a_status_changes_nothing_else() {
    updated(
        BASE,
        "{apiVersion: v1, kind: Pod, metadata: {labels: {a: b}}, spec: {nodeName: n}, status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}}",
        Part::STATUS,
        expect![[r#"
            apiVersion: v1
            kind: Pod
            metadata:
              labels:
                a: b
              name: x
              namespace: default
            spec:
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
            status:
              phase: Running
              podIP: 10.0.0.1
              podIPs:
              - ip: 10.0.0.1
              qosClass: BestEffort
        "#]],
    );
    updated(
        BASE,
        "{apiVersion: v1, kind: Pod, status: {qosClass: Guaranteed, podIPs: [{ip: x}], hostIP: 1.1.1.1, hostIPs: [{ip: 2.2.2.2}]}}",
        Part::STATUS,
        expect![[r#"
            422 Pod "x" is invalid: [status.qosClass: Invalid value: "Guaranteed": field is immutable, status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), status.hostIPs[0].ip: Invalid value: "2.2.2.2": must be equal to `hostIP`]
        "#]],
    );
}
