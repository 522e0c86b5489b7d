//! HorizontalPodAutoscalers of `autoscaling/v2beta1`, whose metrics have the shape in which those of
//! `v1` travel in an annotation.

use std::sync::Arc;

use serde_json::Value;

use super::form::Form;
use crate::Column;
use crate::built_in::horizontal_pod_autoscaler::{columns, v1};

pub(super) const FORM: Form = Form { to_stored, from_stored };

fn to_stored(autoscaler: Value) -> Value {
    v1::with_metrics(autoscaler, v1::to_v2)
}

fn from_stored(autoscaler: Value) -> Value {
    v1::with_metrics(autoscaler, v1::to_v1)
}

/// The one column that is not the same in both versions.
pub(super) fn column(column: Column) -> Column {
    match &*column.name {
        "Targets" => {
            Column { cell: Arc::new(|o, _| columns::targets(&to_stored(o.clone())).into()), ..column }
        }
        _ => column,
    }
}
