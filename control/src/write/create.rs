//! create.

use proa_api::Refusal;
use proa_kinds::Write;
use serde_json::Value;

use super::stage::Operation;
use super::{Intent, Outcome, Pipeline, Unwritten, metadata};

impl Pipeline {
    /// Raced means that a generated name is taken.
    pub(super) async fn create(&self, intent: &Intent, body: Value) -> Result<Outcome, Unwritten> {
        let kind = &intent.kind;
        let mut body = metadata::shape(kind, body)?;
        metadata::check_namespace(kind, &intent.namespace, &mut body)?;
        metadata::check_new(kind, &body)?;
        let mut name = metadata::text(&body, "name").to_owned();
        let is_generated = name.is_empty();
        if is_generated {
            let prefix = metadata::text(&body, "generateName");
            name = metadata::generated_name(prefix, self.ambient().random());
            metadata::metadata(&mut body).insert("name".to_owned(), name.as_str().into());
        }
        let attempt = self.attempt(intent, &name, Operation::Create, None);
        metadata::set_uid(&mut body, attempt.chance);
        let stages = self.stages(kind);
        let mut object = self.judge(&attempt, &stages, Write::Create, body).await?;
        metadata::finish_create(kind, &mut object, attempt.now);
        self.validate(&attempt, &stages, &object).await?;
        match self.commit(&attempt, &stages, None, object).await {
            Err(Unwritten::Raced) if self.exists(&super::key(kind, &intent.namespace, &name)) => {
                match is_generated {
                    true => Err(Unwritten::Raced),
                    false => Err(Refusal::already_exists(kind.resource(), &name).into()),
                }
            }
            // What it belongs to has changed since it was looked at: look again.
            done => done,
        }
    }
}
