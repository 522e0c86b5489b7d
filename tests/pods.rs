//! What a pod may ask of its node, for Wasm and for containers: a table of pods that run to their
//! end, and what each must have said and become.

mod cluster;

use std::fs;

use cluster::Cluster;
use cluster::pod::Ends::{Message, Waiting, With};
use cluster::pod::{DONE, Row, apply, guest, pack, row, shell, status, wasm, with};
use serde_json::{Value, json};

fn wasm_rows() -> Vec<Row> {
    let env = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "key"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
        {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "config"}}]});
    let said = ["A=1\n", "B=12\n", "C=value\n", "S=pass\n", "N=w-env\n", "P_key=value\n", "HOSTNAME=w-env\n"];
    let limit = |bytes: &str| json!({"resources": {"limits": {"memory": bytes}}});
    let aliases = json!({"hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias"]}]});
    let file = json!([{"name": "config", "mountPath": "/etc/app/key", "subPath": "key"}]);
    let end = json!({"terminationMessagePath": "/end/words"});
    let writable = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000}});
    let probe = json!({"livenessProbe": {"exec": {"command": ["true"]}}});
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    vec![
        row("w-args", wasm("command:1", &["args", "$(A)", "$$(A)"], env.clone()), DONE, &["args\n1\n$(A)\n"]),
        row("w-env", wasm("command:1", &["env"], env), DONE, said.to_vec().leak()),
        row("w-image", wasm("command-set:1", &[], json!({})), DONE, &["FROM=image\n"]),
        row("w-stdin", guest(&["stdin"]), DONE, &["0 bytes"]),
        row("w-fails", guest(&["exit", "1"]), With(1, "Error"), &[]),
        row("w-traps", guest(&["trap"]), Message(134, "Error"), &["unreachable"]),
        row("w-core", wasm("exit7:1", &[], json!({})), With(7, "Error"), &[]),
        row("w-core-traps", wasm("trap:1", &[], json!({})), Message(134, "Error"), &["unreachable"]),
        row("w-p3", wasm("command3:1", &[], json!({})), With(1, "Error"), &["a command of 0.3"]),
        row("w-write", guest(&["write", "/empty/file", "x"]), DONE, &[]),
        row("w-config", guest(&["read", "/config/key"]), DONE, &["value"]),
        row("w-secret", guest(&["read", "/secret/password"]), DONE, &["pass"]),
        row("w-projected", guest(&["read", "/all/labels"]), DONE, &["row=\"w-projected\""]),
        row("w-read-only", guest(&["write", "/config/key", "x"]), With(1, "Error"), &["not permitted"]),
        row("w-out", guest(&["read", "/empty/../../etc/passwd"]), With(1, "Error"), &["not permitted"]),
        row("w-node", guest(&["read", "/etc/passwd"]), With(1, "Error"), &["No such file"]),
        row(
            "w-account",
            wasm("command:1", &["read", "/var/run/secrets/kubernetes.io/serviceaccount/token"], json!({})),
            DONE,
            &["eyJ"],
        ),
        row(
            "w-file",
            wasm("command:1", &["read", "/etc/app/key"], json!({"volumeMounts": file})),
            DONE,
            &["value"],
        ),
        row("w-user", guest(&["write", "/empty/file", "x"]), DONE, &[]).spec(writable.clone()),
        row("w-user-read-only", guest(&["write", "/all/key", "x"]), With(1, "Error"), &[]).spec(writable),
        row(
            "w-words",
            guest(&["write", "/dev/termination-log", "good-bye"]),
            Message(0, "Completed"),
            &["good-bye"],
        ),
        row(
            "w-own-words",
            wasm("command:1", &["write", "/end/words", "by"], end),
            Message(0, "Completed"),
            &["by"],
        ),
        row("w-fallback", wasm("command:1", &["what"], fallback), Message(1, "Error"), &["unknown: what"]),
        row("w-memory", wasm("command:1", &["eat"], limit("32Mi")), With(137, "OOMKilled"), &[]),
        row("w-alias", guest(&["lookup", "alias"]), DONE, &["192.0.2.7"]).spec(aliases),
        row("w-service", guest(&["lookup", "kubernetes"]), DONE, &["10.43.0.1"]),
        row("w-nobody", guest(&["lookup", "nobody"]), With(1, "Error"), &[]),
        row(
            "w-wants",
            wasm("wants:1", &[], json!({})),
            Waiting("CreateContainerError"),
            &["imports what this node does not offer: wasi:keyvalue/store@0.2.0"],
        ),
        row(
            "w-probe",
            wasm("command:1", &["sleep"], probe),
            Waiting("CreateContainerConfigError"),
            &["livenessProbe.exec is not possible in a Wasm container"],
        ),
    ]
}

fn container_rows() -> Vec<Row> {
    let status = "grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; ";
    let walls = "mount -t tmpfs t /tmp; touch /sys/x /sys/fs/cgroup/x /sys/fs/cgroup/memory/x /proc/sys/kernel/x; \
        echo 1 > /proc/sys/vm/drop_caches; echo 3 > /proc/sysrq-trigger; head -c1 /proc/kcore; ls /sys/firmware; \
        ls /dev | grep -E 'sd|vd|mem'; true";
    let tight = json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}});
    let user = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000,
        "supplementalGroups": [3000]}});
    let evil = json!({"volumeMounts": [{"name": "empty", "mountPath": "/x", "subPath": "evil"}]});
    let part = json!({"volumeMounts": [{"name": "empty", "mountPath": "/x", "subPathExpr": "$(HOSTNAME)/a"},
        {"name": "config", "mountPath": "/etc/app/key", "subPath": "key"}],
        "env": [{"name": "HOSTNAME", "value": "part"}]});
    let over_link = json!({"volumeMounts": [{"name": "config", "mountPath": "/data/link/config"}]});
    let names = json!({"hostname": "host", "subdomain": "sub", "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias"]}]});
    let order = json!({"initContainers": [
        with(shell("echo first >> /empty/log", json!({})), json!({"name": "first"})),
        with(shell("echo side >> /empty/log; sleep 1000", json!({})), json!({"name": "side", "restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["grep", "side", "/empty/log"]}, "periodSeconds": 1}})),
        with(shell("echo second >> /empty/log", json!({})), json!({"name": "second"}))]});
    let attack = json!({"initContainers": [with(shell("ln -s /etc /empty/evil", json!({})), json!({"name": "attack"}))]});
    let limits = json!({"resources": {"limits": {"cpu": "100m", "memory": "24Mi"}}});
    let eats = with(limits.clone(), json!({"command": ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M"]}));
    let env = json!({"command": null, "args": ["echo", "$(A)", "$$(A)", "$(NONE)"], "env": [{"name": "A", "value": "v"}]});
    vec![
        row("c-default", shell(status, json!({})), DONE, &[
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "Seccomp:\t2",
        ]),
        row("c-walls", shell(walls, json!({})), DONE, &[
            "mount: permission denied",
            "/sys/x: Read-only",
            "/sys/fs/cgroup/x: Read-only",
            "drop_caches: Read-only",
        ])
        .never(&["sda\n", "vda\n", "mem\n"]),
        row("c-tight", shell(&format!("{status} touch /x; touch /empty/x && echo written"), tight), DONE, &[
            "CapEff:\t0000000000000400",
            "CapBnd:\t0000000000000400",
            "NoNewPrivs:\t1",
            "/x: Read-only file system",
            "written",
        ]),
        row("c-privileged", shell(&format!("{status} mount -t tmpfs t /tmp && echo mounted"),
            json!({"securityContext": {"privileged": true}})), DONE, &["Seccomp:\t0", "mounted"]),
        row("c-user", shell("id; touch /empty/f; stat -c %u:%g /empty/f; cat /secret/password; echo >> /all/key", json!({})),
            With(1, "Error"), &["uid=1000 gid=1001 groups=1001,2000,3000", "1000:2000", "pass", "can't create"])
        .spec(user),
        row("c-root", shell("id", json!({"securityContext": {"runAsNonRoot": true}})),
            Waiting("CreateContainerConfigError"), &["image will run as root"]),
        row("c-memory", shell("", eats), With(137, "OOMKilled"), &[]),
        row("c-limits", shell("cd /sys/fs/cgroup; cat cpu.max memory.max cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes; true",
            limits), DONE, &["10000", "25165824"]),
        row("c-tmpfs", shell("dd if=/dev/zero of=/memory/f bs=64k count=32", json!({})), With(1, "Error"), &["No space left"]),
        row("c-arguments", shell("", env), DONE, &["v $(A) $(NONE)\n"]),
        row("c-directory", shell("pwd", json!({"workingDir": "/new/one"})), DONE, &["/new/one"]),
        row("c-order", shell("cat /empty/log", json!({})), DONE, &["first\nside\nsecond\n"]).spec(order),
        row("c-projected", shell("ls /all; stat -Lc %a /all/key; cat /all/labels", json!({})), DONE,
            &["key\nlabels\ntoken\n", "440", "row=\"c-projected\""]),
        row("c-part", shell("echo x > /x/f; cat /x/f /etc/app/key", part), DONE, &["x\nvalue"]),
        row("c-attack", shell("cat /x/passwd", evil), Waiting("CreateContainerConfigError"),
            &["failed to prepare subPath for volumeMount \"empty\" of container \"c0\": it leads out of the volume"]).spec(attack),
        row("c-link", shell("cat /etc/config/key", over_link), DONE, &["value"]),
        row("c-names", shell("cat /etc/resolv.conf /etc/hosts; hostname", json!({})), DONE, &[
            "search example\nnameserver 192.0.2.53\noptions ndots:2\n",
            "host.sub.default.svc.cluster.local\thost\n",
            "192.0.2.7\talias\n",
            "\nhost\n",
        ])
        .spec(names),
        row("c-node-network", shell("cat /etc/resolv.conf; ls /sys/class/net", json!({})), DONE,
            &["nameserver 10.43.0.10", "lo\n", "\nproa"])
        .spec(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
        row("c-words", shell("echo words > /t/end; exit 2", json!({"terminationMessagePath": "/t/end"})),
            Message(2, "Error"), &["words\n"]),
        row("c-many-words", shell("truncate -s 100G /t/end; printf last >> /t/end; exit 2",
            json!({"terminationMessagePath": "/t/end"})), Message(2, "Error"), &["last"]),
        row("c-after-start", shell("until test -f /empty/hook; do sleep 0.1; done; cat /empty/hook",
            json!({"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /empty/hook"]}}}})),
            DONE, &["hooked"]),
    ]
}

fn check(cluster: &Cluster, row: &Row) {
    let name = row.name;
    let is_there = |status: &Value| match row.ends {
        Waiting(reason) => status["state"]["waiting"]["reason"] == reason,
        With(..) | Message(..) => !status["state"]["terminated"].is_null(),
    };
    cluster.wait(&format!("{name} to come to its end"), || is_there(&status(cluster, name)));
    let status = status(cluster, name);
    let ended = &status["state"]["terminated"];
    let text = match row.ends {
        Waiting(_) => {
            let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
            cluster.wait(&format!("an Event of {name}"), || {
                let about = format!("involvedObject.name={name}");
                let events = cluster.kubectl(&["get", "events", "--field-selector", &about]);
                row.says.iter().all(|text| events.contains(text.trim_end()))
            });
            message
        }
        With(code, reason) | Message(code, reason) => {
            let log = cluster.kubectl(&["logs", name, "-c", "c0"]);
            assert_eq!(
                (&ended["exitCode"], &ended["reason"]),
                (&json!(code), &json!(reason)),
                "{name}: {ended} {log}"
            );
            assert!(ended["signal"].is_null(), "{name}: {ended}");
            match row.ends {
                Message(..) => ended["message"].as_str().unwrap_or_default().to_owned(),
                _ => log,
            }
        }
    };
    for wanted in row.says {
        assert!(text.contains(wanted), "{name} does not say {wanted:?}: {text}");
    }
    for unwanted in row.never {
        assert!(!text.contains(unwanted), "{name} says {unwanted:?}: {text}");
    }
}

fn run(rows: &[Row]) -> Cluster {
    let cluster = Cluster::start();
    pack(&cluster);
    apply(&cluster, &rows.iter().map(Row::pod).collect::<Vec<_>>());
    rows.iter().for_each(|row| check(&cluster, row));
    cluster
}

#[test]
fn wasm_pods_come_to_the_right_end() {
    let cluster = run(&wasm_rows());
    // Each module was compiled once, however many pods run it.
    let compiled = fs::read_dir(cluster.data_dir().join("wasm")).expect("compiled files").flatten();
    let compiled = compiled.filter(|e| e.path().extension().is_some_and(|x| x == "cwasm")).count();
    assert_eq!(compiled, 4, "command, command3, exit7 and trap");
    cluster.kubectl(&["delete", "pod", "--all"]);
}

#[test]
fn container_pods_come_to_the_right_end() {
    let cluster = run(&container_rows());
    cluster.kubectl(&["delete", "pod", "--all"]);
}
