//! Which objects a verb is about: by type and name, by selector, or by file; and what they are now.

use anyhow::{Result, bail};
use weir_client::{DynamicApi, ListOptions};
use weir_proto::{Kind, Object};

use crate::arguments::{Choosing, Files, Validate};
use crate::failure::Failures;
use crate::manifest;
use crate::session::{Session, list_all};
use crate::target;

/// An object by name, and as it was found where finding it meant reading it.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) kind: &'static Kind,
    /// Empty: the session's.
    pub(crate) namespace: String,
    pub(crate) name: String,
    found: Option<Box<dyn Object>>,
}

impl Pick {
    pub(crate) fn of(object: Box<dyn Object>) -> Self {
        let meta = object.meta();
        Self {
            kind: object.kind(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            found: Some(object),
        }
    }

    pub(crate) fn named(kind: &'static Kind, name: &str) -> Self {
        Self { kind, namespace: String::new(), name: name.to_owned(), found: None }
    }

    pub(crate) fn api(&self, session: &Session) -> DynamicApi {
        session.api(self.kind, &self.namespace)
    }

    pub(crate) fn display(&self) -> String {
        target::display(self.kind, &self.name)
    }

    /// As it is on the server.
    pub(crate) async fn object(&mut self, session: &Session) -> Result<Box<dyn Object>> {
        match self.found.take() {
            Some(object) => Ok(object),
            None => Ok(self.api(session).get(&self.name).await?),
        }
    }
}

/// The objects that are meant. A type alone means all of its objects only with `--all` or a selector.
pub(crate) async fn pick(
    session: &Session,
    words: &[String],
    files: Option<&Files>,
    choosing: &Choosing,
) -> Result<Vec<Pick>> {
    if let Some(files) = files.filter(|files| !files.filenames.is_empty() || files.kustomize.is_some()) {
        if !words.is_empty() {
            bail!("files and names do not go together");
        }
        let of = |manifest: manifest::Manifest| Pick {
            kind: manifest.kind,
            namespace: manifest.object.meta().namespace.clone(),
            name: manifest.object.meta().name.clone(),
            found: None,
        };
        // Only names matter here; what else the files say may be out of date.
        return Ok(manifest::read(files, Validate::Ignore)?.into_iter().map(of).collect());
    }
    let chooses = choosing.all || !choosing.selector.is_empty() || !choosing.field_selector.is_empty();
    let mut picks = Vec::new();
    for target in target::parse(words)? {
        match &target.name {
            Some(_) if chooses => bail!("a name does not go with --all or a selector"),
            Some(_) if choosing.all_namespaces && target.kind.namespaced => {
                bail!("a resource cannot be retrieved by name across all namespaces")
            }
            Some(name) => picks.push(Pick::named(target.kind, name)),
            None if chooses => {
                let api = session.api_over(target.kind, choosing.all_namespaces);
                picks.extend(list_all(&api, &list_options(choosing)).await?.into_iter().map(Pick::of));
            }
            None => bail!(
                "resource(s) were provided, but no name was specified: name some of the {}, or say --all or -l SELECTOR",
                target.kind.plural
            ),
        }
    }
    Ok(picks)
}

/// As they are on the server; those that cannot be read are said and left out.
pub(crate) async fn objects(
    session: &Session,
    picks: Vec<Pick>,
    failures: &mut Failures,
) -> Vec<Box<dyn Object>> {
    let mut objects = Vec::new();
    for mut pick in picks {
        let object = pick.object(session).await;
        objects.extend(failures.keep(session, object));
    }
    objects
}

pub(crate) fn list_options(choosing: &Choosing) -> ListOptions {
    ListOptions {
        label_selector: choosing.selector.clone(),
        field_selector: choosing.field_selector.clone(),
        ..ListOptions::default()
    }
}
