//! What is wrong with probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, PodSpec, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::{FieldErrors, Path};
use proa_api::signals::SIGNALS;

use crate::syntax::{self, NOT_NEGATIVE, report};

/// What probes and hooks do; one of them.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// What is wrong with the probes and hooks of a container that may have them.
pub fn all(container: &Container, spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let grace = spec.termination_grace_period_seconds;
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.field("lifecycle");
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            let Some(hook) = hook else { continue };
            let handler = Handler {
                exec: hook.exec.as_ref(),
                http_get: hook.http_get.as_ref(),
                tcp_socket: hook.tcp_socket.as_ref(),
                grpc: None,
                sleep: hook.sleep.as_ref(),
            };
            self::handler(&handler, grace, &path.field(field), errors);
        }
        if let Some(signal) = &lifecycle.stop_signal {
            stop_signal(signal, spec, &path.field("stopSignal"), errors);
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        let Some(probe) = probe else { continue };
        let path = path.field(field);
        self::probe(probe, grace, &path, errors);
        if field == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                let text = "must not be set for readinessProbes";
                errors.invalid(&path.field("terminationGracePeriodSeconds"), seconds, text);
            }
        } else if let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1) {
            errors.invalid(&path.field("successThreshold"), threshold, "must be 1");
        }
    }
}

fn stop_signal(signal: &str, spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let supported: Vec<&str> = match spec.os.as_ref().map(|os| os.name.as_str()) {
        None => {
            return errors.forbidden(path, "may not be set for containers with empty `spec.os.name`");
        }
        Some("windows") => vec!["SIGKILL", "SIGTERM"],
        Some(_) => SIGNALS.iter().map(|(name, _)| *name).collect(),
    };
    if !supported.contains(&signal) {
        errors.not_supported(path, signal, &supported);
    }
}

fn probe(probe: &Probe, grace: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    self::handler(&handler, grace, path, errors);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        if let Some(number) = number.filter(|number| *number < 0) {
            errors.invalid(&path.field(field), number, NOT_NEGATIVE);
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.field("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn handler(handler: &Handler<'_>, grace: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut there = 0;
    let mut first = |field: &'static str, errors: &mut FieldErrors| {
        there += 1;
        if there > 1 {
            errors.forbidden(&path.field(field), "may not specify more than 1 handler type");
        }
        there == 1
    };
    if let Some(exec) = handler.exec
        && first("exec", errors)
        && exec.command.as_ref().is_none_or(|command| command.is_empty())
    {
        errors.required(&path.field("exec").field("command"), "");
    }
    if let Some(get) = handler.http_get
        && first("httpGet", errors)
    {
        http_get(get, &path.field("httpGet"), errors);
    }
    if let Some(socket) = handler.tcp_socket
        && first("tcpSocket", errors)
    {
        port(&socket.port, &path.field("tcpSocket").field("port"), errors);
    }
    if let Some(grpc) = handler.grpc
        && first("grpc", errors)
    {
        port(&IntOrString::Int(grpc.port), &path.field("grpc").field("port"), errors);
    }
    if let Some(sleep) = handler.sleep
        && first("sleep", errors)
        && let Some(grace) = grace.filter(|grace| sleep.seconds < 0 || sleep.seconds > *grace)
    {
        let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(&path.field("sleep"), sleep.seconds, text);
    }
    if there == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(get: &HTTPGetAction, path: &Path<'_>, errors: &mut FieldErrors) {
    if get.path.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.field("path"), "");
    }
    port(&get.port, &path.field("port"), errors);
    let scheme = get.scheme.as_deref().unwrap_or_default();
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.not_supported(&path.field("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in get.http_headers.iter().flatten() {
        report(syntax::header_name(&header.name), &path.field("httpHeaders"), &header.name, errors);
    }
}

fn port(port: &IntOrString, path: &Path<'_>, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => {
            for fault in syntax::port_number((*number).into()) {
                errors.invalid(path, *number, fault);
            }
        }
        IntOrString::String(name) => report(syntax::port_name(name), path, name, errors),
    }
}
