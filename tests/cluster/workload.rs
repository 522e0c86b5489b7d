//! What the tests of workloads share: pod templates of the example container, and how they read
//! tables and Events.

use super::Cluster;

/// A container that goes on until it is told to stop.
pub const SLEEP: &str = "trap exit TERM; /bin/busybox sleep 1000 & wait";

/// A pod template that runs a shell script in the example container.
pub fn template(labels: &str, policy: &str, script: &str) -> String {
    format!(
        "{{metadata: {{labels: {{{labels}}}}}, spec: {{restartPolicy: {policy}, terminationGracePeriodSeconds: 1, \
         containers: [{{name: c, image: 'hello-container:1', command: [/bin/busybox, sh, -c], args: [\"{script}\"]}}]}}}}"
    )
}

/// Waits for an Event about an object.
pub fn events_have(cluster: &Cluster, object: &str, reason: &str) {
    let field = format!("involvedObject.name={object},reason={reason}");
    cluster.wait(&format!("the Event {reason} of {object}"), || {
        cluster.kubectl(&["get", "events", "--field-selector", &field, "-o", "name"]).contains("event/")
    });
}

/// One word of a table that kubectl has printed.
pub fn word(table: &str, row: usize, column: usize) -> &str {
    let line = table.lines().nth(row).unwrap_or_default();
    line.split_whitespace().nth(column).unwrap_or_default()
}
