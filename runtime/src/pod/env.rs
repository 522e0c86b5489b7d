//! A container's environment and arguments.
//!
//! Pure: the ConfigMaps, Secrets and Services it refers to are fetched before (`start.rs`).
//! Sources: <https://kubernetes.io/docs/tasks/inject-data-application/> and, for what services
//! add, <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service};

use crate::pod::budget::{Budget, STRINGS};
use crate::pod::downward::{self, Facts};

/// Most bytes of one value.
const ONE_BYTES: usize = 128 << 10;
/// What Linux counts beside each string: its end, and where it is.
const STRING_BYTES: usize = 1 + size_of::<usize>();

/// Variables in the order they were first set; setting one again replaces its value. Together they
/// are no more than a new program is given.
#[derive(Clone, Debug)]
pub struct Variables {
    pairs: Vec<(String, String)>,
    /// Where each of them is.
    places: HashMap<String, usize>,
    room: Budget,
}

/// The ConfigMaps and Secrets of the pod's namespace that a container refers to, by name. A name
/// without an object does not exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets.
    pub secrets: BTreeMap<String, Secret>,
}

/// The variables that the pod sets for a container, without those of the image. An error is the
/// message of a `CreateContainerConfigError`.
pub fn variables(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    services: &[Arc<Service>],
    facts: &Facts,
) -> Result<Variables, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut all = Variables::default();
    for service in services.iter().filter(|s| is_visible(s, namespace, links)) {
        service_variables(service, &mut all)?;
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match sources.config_maps.get(&r.name) {
                Some(map) => {
                    let mut data = map.data.iter().flatten();
                    let set = data.try_for_each(|(key, value)| all.set_named(prefix, key, value.into()));
                    set.map_err(|error| format!("configmap \"{}\": {error}", r.name))?;
                }
                None if r.optional.unwrap_or(false) => {}
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match sources.secrets.get(&r.name) {
                Some(secret) => {
                    let mut data = secret.data.iter().flatten();
                    let set = data.try_for_each(|(key, value)| all.set_named(prefix, key, text(&value.0)));
                    set.map_err(|error| format!("secret \"{}\": {error}", r.name))?;
                }
                None if r.optional.unwrap_or(false) => {}
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        }
    }
    // Each variable may hold the one before twice, and so on.
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(pod, container, variable, sources, facts, &all)? {
            let set = all.set(&variable.name, value);
            set.map_err(|error| format!("env {}: {error}", variable.name))?;
        }
    }
    Ok(all)
}

/// Program and arguments: `command` replaces the image's entry point and its arguments, `args`
/// replaces its arguments only.
pub fn arguments(
    container: &Container,
    entrypoint: &[String],
    cmd: &[String],
    variables: &Variables,
) -> Result<Vec<String>, String> {
    let mut room = Budget::new(STRINGS);
    let mut expanded = |list: &[String]| -> Result<Vec<String>, String> {
        let one = |text: &String| {
            let text = expand(text, variables)?;
            room.take(text.len() + STRING_BYTES).map(|()| text)
        };
        list.iter().map(one).collect()
    };
    let command = container.command.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    let mut all = if command.is_empty() { entrypoint.to_vec() } else { expanded(command)? };
    match (command.is_empty(), args.is_empty()) {
        (true, true) => all.extend(cmd.iter().cloned()),
        _ => all.extend(expanded(args)?),
    }
    Ok(all)
}

/// Replaces `$(NAME)` by the variable's value; an unknown name stays as it is, `$$` is `$`.
pub fn expand(input: &str, variables: &Variables) -> Result<String, String> {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    // Searched for once where there is none, as a value may open thousands.
    let mut closed = true;
    while let Some(at) = rest.find('$') {
        if out.len() > ONE_BYTES {
            break;
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(opened) = rest.strip_prefix('(').filter(|_| closed) {
            let Some((name, tail)) = opened.split_once(')') else {
                closed = false;
                out.push('$');
                continue;
            };
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    if out.len() > ONE_BYTES {
        return Err(format!("argument list too long: one value of over {ONE_BYTES} bytes"));
    }
    Ok(out)
}

impl Default for Variables {
    fn default() -> Self {
        Variables { pairs: Vec::new(), places: HashMap::new(), room: Budget::new(STRINGS) }
    }
}

impl Variables {
    /// These, the later of two that have one name.
    pub fn new(pairs: &[(String, String)]) -> Result<Self, String> {
        let mut all = Variables::default();
        pairs.iter().try_for_each(|(name, value)| all.set(name, value.into()))?;
        Ok(all)
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.pairs[*place].1.as_str())
    }

    /// Sets a variable. What was set once is counted even if it is replaced, so that the work has an
    /// end as well.
    pub fn set(&mut self, name: &str, value: Cow<'_, str>) -> Result<(), String> {
        // Between the two stands an equals sign.
        self.room.take(name.len() + 1 + value.len() + STRING_BYTES)?;
        match self.places.get(name) {
            Some(place) => self.pairs[*place].1 = value.into_owned(),
            None => {
                self.places.insert(name.to_owned(), self.pairs.len());
                self.pairs.push((name.to_owned(), value.into_owned()));
            }
        }
        Ok(())
    }

    /// Sets a variable unless it is set.
    pub fn set_default(&mut self, name: &str, value: &str) -> Result<(), String> {
        if self.places.contains_key(name) { Ok(()) } else { self.set(name, value.into()) }
    }

    /// Sets a variable unless it is set to something.
    pub fn fill(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is_filled = self.places.get(name).is_some_and(|place| !self.pairs[*place].1.is_empty());
        if is_filled { Ok(()) } else { self.set(name, value.into()) }
    }

    /// Sets all of `others`, over what is set.
    pub fn extend(&mut self, others: Variables) -> Result<(), String> {
        others.pairs.into_iter().try_for_each(|(name, value)| self.set(&name, value.into()))
    }

    /// All of them, in order.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.pairs
    }

    /// Sets a variable made of a key of an object, if the key can name one.
    fn set_named(&mut self, prefix: &str, key: &str, value: Cow<'_, str>) -> Result<(), String> {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Ok(());
        }
        self.set(&format!("{prefix}{key}"), value)
    }
}

/// The value of one variable; `None` if it comes from something optional that is not there.
fn value<'a>(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &'a Sources,
    facts: &Facts,
    before: &Variables,
) -> Result<Option<Cow<'a, str>>, String> {
    let Some(from) = &variable.value_from else {
        let value = expand(variable.value.as_deref().unwrap_or_default(), before);
        let value = value.map_err(|error| format!("env {}: {error}", variable.name))?;
        return Ok(Some(value.into()));
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match from {
        EnvVarSource { field_ref: Some(selector), .. } => {
            Ok(Some(downward::field(pod, facts, selector)?.into()))
        }
        EnvVarSource { resource_field_ref: Some(selector), .. } => {
            Ok(Some(downward::resource(pod, Some(container), facts, selector)?.into()))
        }
        EnvVarSource { config_map_key_ref: Some(r), .. } => {
            let object = sources.config_maps.get(&r.name);
            let found = object.map(|map| map.data.as_ref()?.get(&r.key).map(|value| value.into()));
            picked(found, r.optional, "configmap", "ConfigMap", namespace, &r.name, &r.key)
        }
        EnvVarSource { secret_key_ref: Some(r), .. } => {
            let object = sources.secrets.get(&r.name);
            let found = object.map(|s| s.data.as_ref()?.get(&r.key).map(|value| text(&value.0)));
            picked(found, r.optional, "secret", "Secret", namespace, &r.name, &r.key)
        }
        EnvVarSource { file_key_ref: Some(_), .. } => {
            Err(format!("env {}: valueFrom.fileKeyRef is not supported", variable.name))
        }
        _ => Err(format!("env {}: valueFrom names no source", variable.name)),
    }
}

/// The value of a key: the outer `None` is a missing object, the inner one a missing key.
fn picked<'a>(
    found: Option<Option<Cow<'a, str>>>,
    optional: Option<bool>,
    kind: &str,
    title: &str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<Cow<'a, str>>, String> {
    match found {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional.unwrap_or(false) => Ok(None),
        Some(None) => Err(format!("couldn't find key {key} in {title} {namespace}/{name}")),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// True if a service adds variables to pods of this namespace.
fn is_visible(service: &Service, namespace: &str, links: bool) -> bool {
    let meta = &service.metadata;
    let spec = service.spec.as_ref();
    let address = spec.and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    if address.is_empty() || address == "None" || spec.is_none_or(|s| s.ports.is_none()) {
        return false;
    }
    let of = meta.namespace.as_deref().unwrap_or_default();
    let is_api_server = of == "default" && meta.name.as_deref() == Some("kubernetes");
    is_api_server || links && of == namespace
}

fn service_variables(service: &Service, all: &mut Variables) -> Result<(), String> {
    let (Some(name), Some(spec)) = (&service.metadata.name, &service.spec) else { return Ok(()) };
    let host = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Ok(()) };
    let mut set = |variable: &str, value: &str| {
        all.set(variable, value.into()).map_err(|error| format!("service \"{name}\": {error}"))
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    set(&format!("{prefix}_SERVICE_HOST"), host)?;
    set(&format!("{prefix}_SERVICE_PORT"), &first.port.to_string())?;
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            set(&format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), &port.port.to_string())?;
        }
    }
    let url = |port: i32, protocol: &str| format!("{}://{host}:{port}", protocol.to_lowercase());
    let protocol = first.protocol.as_deref().unwrap_or("TCP");
    set(&format!("{prefix}_PORT"), &url(first.port, protocol))?;
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        set(&stem, &url(port.port, protocol))?;
        set(&format!("{stem}_PROTO"), &protocol.to_lowercase())?;
        set(&format!("{stem}_PORT"), &port.port.to_string())?;
        set(&format!("{stem}_ADDR"), host)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proa_api::quantity::Amount;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn facts() -> Facts {
        Facts {
            host_ip: [192, 0, 2, 1].into(),
            pod_ip: [10, 42, 0, 7].into(),
            allocatable_cpu: Amount::from_millis(1500),
            allocatable_memory: Amount::from_units(1 << 30),
            memory_capacity: Amount::from_units(1 << 30),
            allocatable_storage: Amount::from_units(1 << 33),
        }
    }

    fn check(container: Value, expected: Result<&[(&str, &str)], &str>) {
        let mut container = container;
        container["name"] = json!("c");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": "\"1\""}},
            "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [container]},
        }))
        .unwrap();
        let map = json!({"metadata": {"name": "m"}, "data": {"k": "v", "l": "w"}});
        let secret = json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
        let sources = Sources {
            config_maps: [("m".to_owned(), serde_json::from_value(map).unwrap())].into(),
            secrets: [("s".to_owned(), serde_json::from_value(secret).unwrap())].into(),
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let found = variables(&pod, container, &sources, &[], &facts()).map(Variables::into_pairs);
        let found = found.as_ref().map(|pairs| pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect());
        let found: Result<Vec<_>, &str> = found.map_err(String::as_str);
        assert_eq!(found, expected.map(<[_]>::to_vec));
    }

    #[test]
    fn values() {
        check(
            json!({"env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)/$(NONE)/$$(A)/$A/$("},
                {"name": "A", "value": "2"},
            ]}),
            Ok(&[("A", "2"), ("B", "1/$(NONE)/$(A)/$A/$(")]),
        );
        check(
            json!({"env": [
                {"name": "M", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": true}}},
            ]}),
            Ok(&[("M", "v"), ("S", "secret")]),
        );
        check(
            json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
                   "env": [{"name": "k", "value": "$(P_l)"}]}),
            Ok(&[("P_k", "v"), ("P_l", "w"), ("k", "w")]),
        );
    }

    #[test]
    fn fields_and_resources() {
        let field =
            |path: &str| json!({"env": [{"name": "F", "valueFrom": {"fieldRef": {"fieldPath": path}}}]});
        for (path, value) in [
            ("metadata.name", "p"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels", "a=\"\\\"1\\\"\"\nb=\"2\""),
            ("metadata.annotations['none']", ""),
            ("spec.nodeName", "n"),
            ("status.podIP", "10.42.0.7"),
            ("status.hostIP", "192.0.2.1"),
        ] {
            check(field(path), Ok(&[("F", value)]));
        }
        check(field("spec.x"), Err("unsupported fieldPath: spec.x"));
        let resource = |resource: &str, divisor: &str| {
            json!({
                "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
                "env": [{"name": "R", "valueFrom":
                    {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}],
            })
        };
        check(resource("limits.memory", "1Mi"), Ok(&[("R", "64")]));
        check(resource("limits.memory", "0"), Ok(&[("R", "67108864")]));
        check(resource("requests.cpu", "1m"), Ok(&[("R", "250")]));
        check(resource("requests.cpu", "1"), Ok(&[("R", "1")]));
        check(resource("limits.cpu", "1"), Ok(&[("R", "2")]));
    }

    #[test]
    fn what_is_missing() {
        let from = |source: Value| json!({"env": [{"name": "X", "valueFrom": source}]});
        check(from(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), Err("configmap \"x\" not found"));
        check(
            from(json!({"configMapKeyRef": {"name": "m", "key": "x"}})),
            Err("couldn't find key x in ConfigMap ns/m"),
        );
        check(from(json!({"secretKeyRef": {"name": "x", "key": "k"}})), Err("secret \"x\" not found"));
        check(
            from(json!({"secretKeyRef": {"name": "s", "key": "x"}})),
            Err("couldn't find key x in Secret ns/s"),
        );
        check(json!({"envFrom": [{"secretRef": {"name": "x"}}]}), Err("secret \"x\" not found"));
    }

    #[test]
    fn arguments_follow_the_table_of_the_documentation() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let variables = Variables::new(&[("V".to_owned(), "x".to_owned())]).unwrap();
        for (command, args, expected) in [
            (&[][..], &[][..], &["/e", "c"][..]),
            (&["/a"][..], &[][..], &["/a"][..]),
            (&[][..], &["$(V)"][..], &["/e", "x"][..]),
            (&["/a"][..], &["b"][..], &["/a", "b"][..]),
        ] {
            let container = Container {
                command: Some(strings(command)),
                args: Some(strings(args)),
                ..Container::default()
            };
            let found = arguments(&container, &strings(&["/e"]), &strings(&["c"]), &variables);
            assert_eq!(found, Ok(strings(expected)), "{command:?} {args:?}");
        }
    }

    #[test]
    fn services() {
        let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
            let service = json!({
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
            });
            Arc::new(serde_json::from_value(service).unwrap())
        };
        let services = [
            service("default", "kubernetes", "10.43.0.1"),
            service("ns", "my-web", "10.43.0.9"),
            service("ns", "headless", "None"),
            service("other", "web", "10.43.0.8"),
        ];
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": {"containers": []}}))
                .unwrap();
        let container = Container::default();
        let names = |pod: &Pod| {
            let found = variables(pod, &container, &Sources::default(), &services, &facts()).unwrap();
            found.into_pairs().into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>()
        };
        expect_test::expect![[r#"
            KUBERNETES_SERVICE_HOST=10.43.0.1
            KUBERNETES_SERVICE_PORT=80
            KUBERNETES_SERVICE_PORT_HTTP=80
            KUBERNETES_PORT=tcp://10.43.0.1:80
            KUBERNETES_PORT_80_TCP=tcp://10.43.0.1:80
            KUBERNETES_PORT_80_TCP_PROTO=tcp
            KUBERNETES_PORT_80_TCP_PORT=80
            KUBERNETES_PORT_80_TCP_ADDR=10.43.0.1
            MY_WEB_SERVICE_HOST=10.43.0.9
            MY_WEB_SERVICE_PORT=80
            MY_WEB_SERVICE_PORT_HTTP=80
            MY_WEB_PORT=tcp://10.43.0.9:80
            MY_WEB_PORT_80_TCP=tcp://10.43.0.9:80
            MY_WEB_PORT_80_TCP_PROTO=tcp
            MY_WEB_PORT_80_TCP_PORT=80
            MY_WEB_PORT_80_TCP_ADDR=10.43.0.9"#]]
        .assert_eq(&names(&pod).join("\n"));
        pod.spec.as_mut().unwrap().enable_service_links = Some(false);
        assert!(names(&pod).iter().all(|v| v.starts_with("KUBERNETES_")));
    }

    #[test]
    fn values_that_double_are_refused() {
        let env: Vec<Value> = (1..40)
            .map(|n| json!({"name": format!("A{n}"), "value": format!("$(A{0})$(A{0})", n - 1)}))
            .collect();
        let env = [vec![json!({"name": "A0", "value": "xxxxxxxx"})], env].concat();
        let container: Container = serde_json::from_value(json!({"name": "c", "env": env})).unwrap();
        let error = variables(&Pod::default(), &container, &Sources::default(), &[], &facts()).unwrap_err();
        assert_eq!(error, "env A15: argument list too long: one value of over 131072 bytes");
        let long = Variables::new(&[("L".to_owned(), "x".repeat(100 << 10))]).unwrap();
        let args = vec!["$(L)".to_owned(); 30];
        let container = Container { args: Some(args), ..container };
        let error = arguments(&container, &[], &[], &long).unwrap_err();
        assert_eq!(error, "argument list too long: over 2097152 bytes");
    }

    /// What this thread has had of the processor, however busy the machine is.
    fn processor_time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    }

    /// One ConfigMap under a thousand prefixes, or of a hundred thousand keys.
    #[test]
    fn an_object_that_is_named_often_is_not_copied_without_end() {
        let from: Vec<Value> =
            (0..8_000).map(|n| json!({"prefix": format!("p{n}_"), "configMapRef": {"name": "m"}})).collect();
        let container: Container = serde_json::from_value(json!({"name": "c", "envFrom": from})).unwrap();
        let found = |data: Value| {
            let map = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": data})).unwrap();
            let sources =
                Sources { config_maps: [("m".to_owned(), map)].into(), secrets: BTreeMap::default() };
            let begin = processor_time();
            let error = variables(&Pod::default(), &container, &sources, &[], &facts()).unwrap_err();
            assert_eq!(error, "configmap \"m\": argument list too long: over 2097152 bytes");
            let took = processor_time() - begin;
            assert!(took < Duration::from_secs(5), "{took:?}");
        };
        found(json!({"k": "x".repeat(1 << 20)}));
        let keys = (0..120_000).map(|n| (format!("k{n:x}"), json!("")));
        found(Value::Object(keys.collect()));
    }

    #[test]
    fn brackets_that_are_not_closed_are_searched_for_once() {
        let begin = processor_time();
        let opened = "$(".repeat(ONE_BYTES / 2);
        for _ in 0..20 {
            assert_eq!(expand(&opened, &Variables::default()).as_deref(), Ok(&*opened));
        }
        let took = processor_time() - begin;
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(expand("$(A $(B) $(", &Variables::default()).as_deref(), Ok("$(A $(B) $("));
    }
}
