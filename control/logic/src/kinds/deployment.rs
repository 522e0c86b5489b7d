//! Deployment: replicas of a pod, and how they are replaced when the template changes.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::{FieldErrors, Path};

use super::columns::{age, column, container_images, container_names, name, number, selector, wide};
use super::rules::{Rules, row};
use super::syntax::{self, NOT_NEGATIVE, report};
use super::{Kind, ScalePaths, template};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of Deployments.
pub struct Deployments;

/// The row of Deployments.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["deploy"],
        categories: vec!["all"],
        has_generation: true,
        scale: Some(ScalePaths {
            spec_replicas: "/spec/replicas",
            status_replicas: "/status/replicas",
            selector: "/spec/selector",
        }),
        columns: vec![
            name(),
            column("Ready", "string", "Number of the pods that are ready, of those wanted", |o, _| {
                format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into()
            }),
            column("Up-to-date", "string", "Number of pods of the newest template.", |o, _| {
                number(o, "/status/updatedReplicas").into()
            }),
            column("Available", "string", "Number of pods ready for at least minReadySeconds.", |o, _| {
                number(o, "/status/availableReplicas").into()
            }),
            age(),
            wide("Containers", "Names of each container in the template.", |o, _| container_names(o).into()),
            wide("Images", "Images referenced by each container in the template.", |o, _| {
                container_images(o).into()
            }),
            wide("Selector", "Labels of the pods that this manages.", |o, _| {
                selector(o.pointer("/spec/selector")).into()
            }),
        ],
        ..row::<Deployments>()
    }
}

impl Rules for Deployments {
    type Object = Deployment;
    const HAS_STATUS: bool = true;

    fn default(deployment: &mut Deployment) {
        deployment.status.get_or_insert_default();
        let spec = deployment.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        let type_ = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned());
        if type_ == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
        }
        template::default(&mut spec.template);
    }

    fn prepare_status_update(old: &Deployment, new: &mut Deployment) {
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(deployment: &Deployment, errors: &mut FieldErrors) {
        if let Some(spec) = &deployment.spec {
            validate_spec(spec, errors);
        }
    }

    fn validate_update(old: &Deployment, new: &Deployment, errors: &mut FieldErrors) {
        if let (Some(old), Some(new)) = (&old.spec, &new.spec)
            && old.selector != new.selector
        {
            template::selector_changed(&new.selector, errors);
        }
    }

    fn validate_status_update(_old: &Deployment, new: &Deployment, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let path = Path::root("status");
        let counts = [
            ("replicas", status.replicas),
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
            ("unavailableReplicas", status.unavailable_replicas),
            ("collisionCount", status.collision_count),
        ];
        let all = status.replicas.unwrap_or_default();
        template::counts(&counts, all, errors);
        if status.available_replicas > status.ready_replicas {
            let available = status.available_replicas.unwrap_or_default();
            errors.invalid(
                &path.field("availableReplicas"),
                available,
                "cannot be greater than readyReplicas",
            );
        }
    }
}

fn validate_spec(spec: &DeploymentSpec, errors: &mut FieldErrors) {
    let replicas = spec.replicas.unwrap_or_default();
    if replicas < 0 {
        errors.invalid(&SPEC.field("replicas"), replicas, NOT_NEGATIVE);
    }
    template::selector(&spec.selector, "deployment", errors);
    template::validate(&spec.template, &spec.selector, errors);
    validate_strategy(spec, errors);
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    if min_ready < 0 {
        errors.invalid(&SPEC.field("minReadySeconds"), min_ready, NOT_NEGATIVE);
    }
    if let Some(limit) = spec.revision_history_limit.filter(|limit| *limit < 0) {
        errors.invalid(&SPEC.field("revisionHistoryLimit"), limit, NOT_NEGATIVE);
    }
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = SPEC.field("progressDeadlineSeconds");
        if deadline < 0 {
            errors.invalid(&path, deadline, NOT_NEGATIVE);
        }
        if deadline <= min_ready {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn validate_strategy(spec: &DeploymentSpec, errors: &mut FieldErrors) {
    let Some(strategy) = &spec.strategy else { return };
    let path = SPEC.field("strategy");
    match strategy.type_.as_deref().unwrap_or_default() {
        "Recreate" if strategy.rolling_update.is_some() => errors.forbidden(
            &path.field("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => match &strategy.rolling_update {
            Some(rolling) => validate_rolling(rolling, &path.field("rollingUpdate"), errors),
            None => {
                errors.required(&path.field("rollingUpdate"), "this should be defaulted and never be nil")
            }
        },
        other => errors.not_supported(&path.field("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut FieldErrors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        let path = path.field(field);
        match value {
            IntOrString::Int(number) if *number < 0 => errors.invalid(&path, *number, NOT_NEGATIVE),
            IntOrString::Int(_) => {}
            IntOrString::String(text) => report(syntax::percent(text), &path, text, errors),
        }
    }
    if let (Some(0), Some(0)) = (amount(unavailable), amount(surge)) {
        let value = serde_json::to_value(unavailable).unwrap_or_default();
        errors.invalid(&path.field("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
    }
    if let IntOrString::String(text) = unavailable
        && amount(unavailable).is_some_and(|percent| percent > 100)
    {
        errors.invalid(&path.field("maxUnavailable"), text.as_str(), "must not be greater than 100%");
    }
}

/// The number, or the percentage as a number.
fn amount(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::Int(number) => Some((*number).into()),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
    }
}
