//! LimitRange: how small and how large containers, pods and claims of a namespace may be, and what
//! containers get that ask for nothing.
//!
//! <https://kubernetes.io/docs/concepts/policy/limit-range/>.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;

use super::pod;
use crate::Kind;
use crate::columns::{column, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, report};

const SPEC: Path<'static> = Path::root("spec");
const TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

type Amounts = BTreeMap<String, Quantity>;

/// The rules of LimitRanges.
pub struct LimitRanges;

/// The row of LimitRanges.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["limits".into()],
        columns: vec![
            name(),
            column("Created At", "string", "When it was created.", |o, _| {
                text(o, "/metadata/creationTimestamp").into()
            }),
        ],
        ..row::<LimitRanges>()
    }
}

impl TypedRules for LimitRanges {
    type Object = LimitRange;

    fn default(range: &mut LimitRange) {
        let items = &mut range.spec.get_or_insert_default().limits;
        for item in items.iter_mut().filter(|item| item.type_ == "Container") {
            let default = item.default.get_or_insert_default();
            inherit(default, item.max.as_ref());
            let request = item.default_request.get_or_insert_default();
            inherit(request, Some(default));
            inherit(request, item.min.as_ref());
            for amounts in [&mut item.default, &mut item.default_request] {
                *amounts = amounts.take().filter(|amounts| !amounts.is_empty());
            }
        }
    }

    fn validate(range: &LimitRange, errors: &mut FieldErrors) {
        let items = range.spec.as_ref().map(|spec| spec.limits.as_slice()).unwrap_or_default();
        let path = SPEC.field("limits");
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let at = path.index(i);
            let type_at = at.field("type");
            report(syntax::qualified_name(&item.type_), &type_at, &item.type_, errors);
            if !item.type_.contains('/') && !TYPES.contains(&item.type_.as_str()) {
                let text = "must be a standard limit type or fully qualified";
                errors.invalid(&type_at, item.type_.as_str(), text);
            }
            if !seen.insert(&item.type_) {
                errors.duplicate(&type_at, item.type_.as_str());
            }
            self::item(item, &at, errors);
        }
    }
}

fn inherit(amounts: &mut Amounts, from: Option<&Amounts>) {
    for (name, amount) in from.into_iter().flatten() {
        amounts.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn item(item: &LimitRangeItem, path: &Path<'_>, errors: &mut FieldErrors) {
    let of_pods = item.type_ == "Pod";
    names(item, item.max.as_ref(), &path.field("max"), errors);
    names(item, item.min.as_ref(), &path.field("min"), errors);
    for (field, amounts) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
        match amounts.as_ref().filter(|amounts| !amounts.is_empty()) {
            Some(_) if of_pods => {
                errors.forbidden(&path.field(field), "may not be specified when `type` is 'Pod'");
            }
            amounts => names(item, amounts, &path.field(field), errors),
        }
    }
    if item.type_ == "PersistentVolumeClaim" {
        let has = |amounts: &Option<Amounts>| amounts.as_ref().is_some_and(|a| a.contains_key("storage"));
        if !has(&item.min) && !has(&item.max) {
            let text = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&path.field("limits"), text);
        }
    }
    names(item, item.max_limit_request_ratio.as_ref(), &path.field("maxLimitRequestRatio"), errors);
    let all = [&item.max, &item.min, &item.default, &item.default_request, &item.max_limit_request_ratio];
    let keys: BTreeSet<&String> = all.into_iter().flatten().flat_map(BTreeMap::keys).collect();
    for key in keys {
        Bounds::of(item, key, of_pods).check(key, path, errors);
    }
}

fn names(item: &LimitRangeItem, amounts: Option<&Amounts>, path: &Path<'_>, errors: &mut FieldErrors) {
    for name in amounts.into_iter().flatten().map(|(name, _)| name) {
        let at = path.key(name);
        if ["Pod", "Container"].contains(&item.type_.as_str()) {
            pod::resource_name(name, &at, errors);
        } else {
            report(syntax::qualified_name(name), &at, name, errors);
            if !name.contains('/')
                && !["cpu", "memory", "storage", "ephemeral-storage"].contains(&name.as_str())
            {
                errors.invalid(&at, name.as_str(), "must be a standard resource type or fully qualified");
            }
        }
    }
}

/// What a LimitRange says of one resource.
struct Bounds<'a> {
    min: Option<(Amount, &'a str)>,
    max: Option<(Amount, &'a str)>,
    default: Option<(Amount, &'a str)>,
    request: Option<(Amount, &'a str)>,
    ratio: Option<(Amount, &'a str)>,
}

impl<'a> Bounds<'a> {
    fn of(item: &'a LimitRangeItem, key: &str, of_pods: bool) -> Self {
        let get = |amounts: &'a Option<Amounts>| {
            let quantity = amounts.as_ref()?.get(key)?;
            Some((Amount::parse(&quantity.0).ok()?, quantity.0.as_str()))
        };
        Bounds {
            min: get(&item.min),
            max: get(&item.max),
            default: get(&item.default).filter(|_| !of_pods),
            request: get(&item.default_request).filter(|_| !of_pods),
            ratio: get(&item.max_limit_request_ratio),
        }
    }

    fn check(&self, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
        // The field at fault, the value shown, and the two that are the wrong way round.
        let (min, max) = (("min", self.min), ("max", self.max));
        let (default, request) = (("default", self.default), ("default request", self.request));
        let limit = ("default limit", self.default);
        let pairs = [
            ("min", min, max, true),
            ("defaultRequest", min, request, false),
            ("defaultRequest", request, max, true),
            ("defaultRequest", request, limit, true),
            ("default", min, default, true),
            ("default", default, max, false),
        ];
        for (field, low, high, shows_low) in pairs {
            let (Some((low_amount, low_text)), Some((high_amount, high_text))) = (low.1, high.1) else {
                continue;
            };
            if low_amount > high_amount {
                let shown = if shows_low { low_text } else { high_text };
                let text = format!("{} value {low_text} is greater than {} value {high_text}", low.0, high.0);
                errors.invalid(&path.field(field).key(key), shown, text);
            }
        }
        self.check_ratio(key, path, errors);
        let overcommit = !key.contains('/') && !key.starts_with("hugepages-");
        if let (Some((default, text)), Some((request, request_text))) = (self.default, self.request)
            && default != request
            && !overcommit
        {
            let text =
                format!("default value {text} must equal to defaultRequest value {request_text} in {key}");
            errors.invalid(&path.field("defaultRequest").key(key), request_text, text);
        }
    }

    fn check_ratio(&self, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
        let Some((ratio, text)) = self.ratio else { return };
        let field = path.field("maxLimitRequestRatio");
        if ratio < Amount::from_units(1) {
            errors.invalid(&field.key(key), text, format!("ratio {text} is less than 1"));
        }
        if let (Some((min, _)), Some((max, _))) = (self.min, self.max) {
            let most = max.millis() as f64 / min.millis() as f64;
            if ratio.millis() as f64 / 1000.0 > most {
                let why = format!("ratio {text} is greater than max/min = {most:.6}");
                errors.invalid(&field.key(key), text, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals};

    const BASE: &str = "{apiVersion: v1, kind: LimitRange, spec: {limits: \
                        [{type: Container, max: {cpu: 2, memory: 1024Mi}, min: {cpu: 100m, memory: 4Mi}, \
                        default: {memory: 200Mi}, maxLimitRequestRatio: {cpu: 10}}]}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: LimitRange
            metadata:
              name: x
              namespace: default
            spec:
              limits:
              - default:
                  cpu: '2'
                  memory: 200Mi
                defaultRequest:
                  cpu: '2'
                  memory: 200Mi
                max:
                  cpu: '2'
                  memory: 1Gi
                maxLimitRequestRatio:
                  cpu: '10'
                min:
                  cpu: 100m
                  memory: 4Mi
                type: Container
        "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {limits: [{min: {cpu: 3}}]}}",
                "{spec: {limits: [{default: {cpu: 3}}]}}",
                "{spec: {limits: [{default: {cpu: 10m}}]}}",
                "{spec: {limits: [{default: {cpu: 200m}, defaultRequest: {cpu: 300m}}]}}",
                "{spec: {limits: [{defaultRequest: {cpu: 10m}}]}}",
                "{spec: {limits: [{maxLimitRequestRatio: {cpu: 21, memory: 0.5}}]}}",
                "{spec: {limits: [{type: Pod}]}}",
                "{spec: {limits: [{type: Bag}]}}",
                "{spec: {limits: [{}, {type: Container}, {type: PersistentVolumeClaim, max: {storage: 1Gi}}]}}",
                "{spec: {limits: [{}, {type: PersistentVolumeClaim}]}}",
                "{spec: {limits: [{default: {example.com/a: 2}, defaultRequest: {example.com/a: 1}}]}}",
                "{spec: {limits: [{max: {bogus: 2}}]}}",
                "{spec: {limits: [{max: {cpu: much}}]}}",
            ],
            expect![[r#"
                spec.limits[0].min[cpu]: Invalid value: "3": min value 3 is greater than max value 2
                spec.limits[0].defaultRequest[cpu]: Invalid value: "2": min value 3 is greater than default request value 2
                spec.limits[0].default[cpu]: Invalid value: "3": min value 3 is greater than default value 2
                spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "10": ratio 10 is greater than max/min = 0.666667
                spec.limits[0].defaultRequest[cpu]: Invalid value: "3": default request value 3 is greater than max value 2
                spec.limits[0].default[cpu]: Invalid value: "2": default value 3 is greater than max value 2
                spec.limits[0].defaultRequest[cpu]: Invalid value: "10m": min value 100m is greater than default request value 10m
                spec.limits[0].default[cpu]: Invalid value: "100m": min value 100m is greater than default value 10m
                spec.limits[0].defaultRequest[cpu]: Invalid value: "300m": default request value 300m is greater than default limit value 200m
                spec.limits[0].defaultRequest[cpu]: Invalid value: "10m": min value 100m is greater than default request value 10m
                spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "21": ratio 21 is greater than max/min = 20.000000
                spec.limits[0].maxLimitRequestRatio[memory]: Invalid value: "500m": ratio 500m is less than 1
                spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'
                spec.limits[0].type: Invalid value: "Bag": must be a standard limit type or fully qualified
                spec.limits[1].type: Duplicate value: "Container"
                spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided
                spec.limits[0].defaultRequest[example.com/a]: Invalid value: "1": default value 2 must equal to defaultRequest value 1 in example.com/a
                spec.limits[0].max[bogus]: Invalid value: "bogus": must be a standard resource type or fully qualified
                spec.limits[0].max[bogus]: Invalid value: "bogus": must be a standard resource for containers
                spec.limits[0].default[bogus]: Invalid value: "bogus": must be a standard resource type or fully qualified
                spec.limits[0].default[bogus]: Invalid value: "bogus": must be a standard resource for containers
                spec.limits[0].defaultRequest[bogus]: Invalid value: "bogus": must be a standard resource type or fully qualified
                spec.limits[0].defaultRequest[bogus]: Invalid value: "bogus": must be a standard resource for containers
                400 LimitRange in version "v1" cannot be handled as a LimitRange: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            "#]],
        );
    }
}
