//! create, update, patch, delete and deletecollection.

use std::sync::Arc;

use proa_api::Refusal;
use proa_kinds::{Kind, Part, Write};
use serde_json::Value;

use super::views::Viewed;
use super::{Caller, DeleteOptions, List, ListOptions, Object, Outcome, Registry, WriteOptions};
use crate::write::{Changer, Deed, Intent, metadata, scale};

impl Registry {
    /// Creates an object.
    ///
    /// # Errors
    /// 409 if the name is taken, 422 if the object is against its kind's rules, 404 or 403 if its
    /// namespace is not there or on its way out.
    pub async fn create(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        mut body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        let viewed = self.viewed(kind);
        if let Some(viewed) = &viewed {
            body = metadata::shape(kind, body)?;
            metadata::check_new(kind, &body)?;
            metadata::check_namespace(kind, namespace, &mut body)?;
            body = viewed.to_stored(kind.apply_rules(Write::Create, body)?);
        }
        let made = self.write(caller, kind, (namespace, ""), options, Deed::Create(body)).await?;
        Ok(shown(kind, viewed.as_ref(), made.into_object()))
    }

    /// Replaces an object, or one of its subresources. A body with a resourceVersion must have
    /// the current one; one without replaces whatever is there.
    ///
    /// # Errors
    /// 404 if there is no object, 409 if it has changed, 422 if the change is against the rules.
    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    pub async fn update(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        let viewed = self.viewed(kind);
        let body = match &viewed {
            Some(viewed) => viewed.to_stored(body),
            None => body,
        };
        let change: Changer = Box::new(move |_, _| Ok(body.clone()));
        let made = self.write(caller, kind, (namespace, name), options, Deed::Update(part, change)).await?;
        Ok(shown(kind, viewed.as_ref(), made.into_object()))
    }

    /// Changes an object, or one of its subresources: `change` makes the new one of the current.
    /// Decided anew after a lost race, unless `change` asks for a resourceVersion of its own.
    ///
    /// # Errors
    /// As for [`Registry::update`], and what `change` refuses.
    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    pub async fn patch(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        change: impl Fn(&Value) -> Result<Value, Refusal> + Send + Sync + 'static,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        let viewed = self.viewed(kind);
        let (view, row) = (viewed.clone(), self.row(kind)?);
        let is_scale = part == Part::SCALE;
        let change: Changer = Box::new(move |current, old| match &view {
            _ if is_scale => Ok(change(&scale::of(&row, current)?)?),
            Some(view) => Ok(view.to_stored(change(&view.to_view(old.clone()))?)),
            None => Ok(change(old)?),
        });
        let made = self.write(caller, kind, (namespace, name), options, Deed::Update(part, change)).await?;
        Ok(shown(kind, viewed.as_ref(), made.into_object()))
    }

    /// Deletes an object, or marks it for those who hold it.
    ///
    /// # Errors
    /// 404 if there is none, 409 if a precondition does not hold, 403 for namespaces that every
    /// cluster has.
    pub async fn delete(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Outcome, Refusal> {
        options.check()?;
        let viewed = self.viewed(kind);
        let how = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
        let done = self.write(caller, kind, (namespace, name), &how, Deed::Delete(options.clone())).await?;
        Ok(match done {
            Outcome::Gone(object) => Outcome::Gone(shown(kind, viewed.as_ref(), object)),
            Outcome::There(object) => Outcome::There(shown(kind, viewed.as_ref(), object)),
        })
    }

    /// Deletes all objects that a list would show, and gives them.
    ///
    /// # Errors
    /// As for [`Registry::list`] and [`Registry::delete`]; objects that are gone meanwhile are none.
    pub async fn delete_collection(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<List, Refusal> {
        options.check()?;
        let mut found = self.list(kind, namespace, list)?;
        let mut deleted = Vec::new();
        for object in found.items {
            match self.delete(caller, kind, &object.key.namespace, &object.key.name, options).await {
                Ok(done) => deleted.push(done.object().clone()),
                Err(refusal) if refusal.code() == 404 => {}
                Err(refusal) => return Err(refusal),
            }
        }
        found.items = deleted;
        Ok(found)
    }

    /// Writes the one way of every write; `place` is the namespace and the name.
    pub(super) async fn write(
        &self,
        caller: &Caller,
        kind: &Kind,
        place: (&str, &str),
        options: &WriteOptions,
        deed: Deed,
    ) -> Result<Outcome, Refusal> {
        let kind = self.row(kind)?;
        let namespace = if kind.namespaced { place.0 } else { "" };
        let intent = Intent {
            caller: caller.clone(),
            kind,
            namespace: namespace.to_owned(),
            name: place.1.to_owned(),
            options: options.clone(),
            deed,
        };
        self.0.pipeline.write(intent).await
    }

    /// The row of what is stored for a kind.
    fn row(&self, kind: &Kind) -> Result<Arc<Kind>, Refusal> {
        if let Some(viewed) = self.viewed(kind) {
            return Ok(viewed.stored);
        }
        let row = self.kinds().by_plural(&kind.group, &kind.version, &kind.plural).cloned();
        row.ok_or_else(Refusal::no_such_path)
    }
}

fn shown(kind: &Kind, viewed: Option<&Viewed>, object: Arc<Object>) -> Arc<Object> {
    match viewed {
        Some(viewed) => viewed.shown(kind, &object),
        None => object,
    }
}
