//! Probes and lifecycle handlers.

use weir_proto::IntOrString;
use weir_proto::core::v1::{Container, LifecycleHandler, Probe};

use crate::validation::{Errors, Path, names};

pub(super) fn validate(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let probes = [
        ("livenessProbe", &container.liveness_probe, true),
        ("readinessProbe", &container.readiness_probe, false),
        ("startupProbe", &container.startup_probe, true),
    ];
    for (field, probe, only_once) in probes {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        validate_probe(probe, &path, errors);
        match probe.termination_grace_period_seconds {
            Some(_) if !only_once => {
                let detail = "must not be set for readinessProbes";
                errors.invalid(&path.child("terminationGracePeriodSeconds"), 0, detail);
            }
            Some(seconds) if seconds <= 0 => {
                let detail = "must be greater than 0";
                errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, detail);
            }
            _ => {}
        }
        if only_once && probe.success_threshold != 1 {
            errors.invalid(&path.child("successThreshold"), probe.success_threshold, "must be 1");
        }
    }
    let Some(lifecycle) = &container.lifecycle else { return };
    let handlers = [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (field, handler) in handlers {
        if let Some(handler) = handler {
            validate_handler(handler, &path.child("lifecycle").child(field), errors);
        }
    }
}

fn validate_probe(probe: &Probe, path: &Path<'_>, errors: &mut Errors) {
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, value) in numbers {
        errors.not_negative(&path.child(field), value.into());
    }
    one_handler(
        [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()],
        path,
        errors,
    );
    if let Some(exec) = &probe.exec {
        validate_exec(&exec.command, path, errors);
    }
    if let Some(http) = &probe.http_get {
        validate_port(http.port.as_ref(), &path.child("httpGet.port"), errors);
        errors.one_of(&path.child("httpGet.scheme"), &http.scheme, &["HTTP", "HTTPS"]);
    }
    if let Some(tcp) = &probe.tcp_socket {
        validate_port(tcp.port.as_ref(), &path.child("tcpSocket.port"), errors);
    }
    if let Some(grpc) = &probe.grpc {
        errors.port(&path.child("grpc.port"), grpc.port);
    }
}

fn validate_handler(handler: &LifecycleHandler, path: &Path<'_>, errors: &mut Errors) {
    one_handler(
        [
            handler.exec.is_some(),
            handler.http_get.is_some(),
            handler.tcp_socket.is_some(),
            handler.sleep.is_some(),
        ],
        path,
        errors,
    );
    if let Some(exec) = &handler.exec {
        validate_exec(&exec.command, path, errors);
    }
    if let Some(http) = &handler.http_get {
        validate_port(http.port.as_ref(), &path.child("httpGet.port"), errors);
        errors.one_of(&path.child("httpGet.scheme"), &http.scheme, &["HTTP", "HTTPS"]);
    }
    if let Some(sleep) = &handler.sleep {
        errors.not_negative(&path.child("sleep.seconds"), sleep.seconds);
    }
}

fn one_handler(set: [bool; 4], path: &Path<'_>, errors: &mut Errors) {
    match set.into_iter().filter(|set| *set).count() {
        0 => errors.required(path, "must specify a handler type"),
        1 => {}
        _ => errors.forbidden(path, "may not specify more than 1 handler type"),
    }
}

fn validate_exec(command: &[String], path: &Path<'_>, errors: &mut Errors) {
    if command.is_empty() {
        errors.required(&path.child("exec.command"), "");
    }
}

/// A port by number, or by the name of a container's port.
pub(in crate::strategy) fn validate_port(port: Option<&IntOrString>, path: &Path<'_>, errors: &mut Errors) {
    match port {
        None => errors.required(path, ""),
        Some(IntOrString::Int(number)) => errors.port(path, *number),
        Some(IntOrString::String(name)) => errors.syntax(path, name, names::port_name(name)),
    }
}
