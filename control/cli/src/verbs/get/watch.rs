//! `weir get --watch`: each object as it is and then as it changes, until interrupted.
//!
//! A watch outlives the server that answers it: when the stream ends, it goes on from the last change that was seen, and
//! where the server no longer knows that one, from a new list, of which only what is news is printed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Result, bail};
use futures::TryStreamExt;
use weir_client::{Backoff, DynamicApi, Error, ListOptions, WatchEvent, WatchOptions};
use weir_proto::{Kind, Object};

use super::{Options, extras};
use crate::output::{self, Extras, Format};
use crate::session::{Session, list_all};
use crate::target::{Target, display};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

struct Watch<'s> {
    session: &'s Session,
    kind: &'static Kind,
    api: DynamicApi,
    options: WatchOptions,
    format: &'s Format,
    extras: Extras,
    /// Print what kind of change it was.
    events: bool,
    /// The revision of each object that was printed, by namespace and name.
    seen: HashMap<(String, String), String>,
}

pub(super) async fn run(
    session: &Session,
    options: &Options,
    targets: &[Target],
    format: &Format,
) -> Result<()> {
    let [target] = targets else { bail!("you may only specify a single resource type with --watch") };
    let mut field_selector = options.field_selector.clone();
    if let Some(name) = &target.name {
        let comma = if field_selector.is_empty() { "" } else { "," };
        field_selector.push_str(&format!("{comma}metadata.name={name}"));
    }
    let mut watch = Watch {
        session,
        kind: target.kind,
        api: session.api_over(target.kind, options.all_namespaces),
        options: WatchOptions {
            label_selector: options.selector.clone(),
            field_selector,
            bookmarks: true,
            ..WatchOptions::default()
        },
        format,
        extras: extras(options, target.kind, options.show_kind),
        events: options.output_watch_events,
        seen: HashMap::new(),
    };
    if options.watch_only {
        watch.skip().await?;
    }
    // What does not work at first is a mistake; what worked is waited for.
    let mut worked = false;
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let before = watch.options.resource_version.clone();
        match watch.follow(&mut worked, &mut backoff).await {
            Ok(()) => {}
            Err(error) => match error.downcast_ref::<Error>() {
                Some(gone) if gone.is_gone() && worked => watch.options.resource_version.clear(),
                Some(lost) if lost.is_transient() && worked => {
                    tracing::info!(%error, "the watch was cut off");
                }
                _ => return Err(error),
            },
        }
        if watch.options.resource_version.is_empty() {
            watch.forget_deleted(&mut backoff).await?;
        } else if watch.options.resource_version == before {
            tokio::time::sleep(backoff.delay()).await;
        }
    }
}

impl Watch<'_> {
    fn list_options(&self) -> ListOptions {
        ListOptions {
            label_selector: self.options.label_selector.clone(),
            field_selector: self.options.field_selector.clone(),
            ..ListOptions::default()
        }
    }

    /// Begins after what is there now.
    async fn skip(&mut self) -> Result<()> {
        let one = ListOptions { limit: 1, ..self.list_options() };
        self.options.resource_version = self.api.list(&one).await?.resource_version;
        Ok(())
    }

    /// Prints one stream to its end.
    async fn follow(&mut self, worked: &mut bool, backoff: &mut Backoff) -> Result<()> {
        let mut events = self.api.watch(&self.options).await?;
        *worked = true;
        while let Some(event) = events.try_next().await? {
            backoff.reset();
            let (change, object) = match event {
                WatchEvent::Added(object) => ("ADDED", object),
                WatchEvent::Modified(object) => ("MODIFIED", object),
                WatchEvent::Deleted(object) => ("DELETED", object),
                WatchEvent::Bookmark(revision) => {
                    self.options.resource_version = revision;
                    continue;
                }
            };
            let meta = object.meta();
            let revision = meta.resource_version.clone();
            let key = (meta.namespace.clone(), meta.name.clone());
            // The list that a stream may begin with is in the order of names; only changes move it on.
            if change != "ADDED" || !self.options.resource_version.is_empty() {
                self.options.resource_version.clone_from(&revision);
            }
            let known = match change {
                "DELETED" => self.seen.remove(&key),
                _ => self.seen.insert(key, revision.clone()),
            };
            if change == "ADDED" && known.as_ref() == Some(&revision) {
                continue;
            }
            self.extras.event = self.events.then_some(change);
            self.print(object)?;
        }
        Ok(())
    }

    /// Says which of the objects that were printed went while nobody watched.
    async fn forget_deleted(&mut self, backoff: &mut Backoff) -> Result<()> {
        let listed = loop {
            match list_all(&self.api, &self.list_options()).await {
                Ok(listed) => break listed,
                Err(error) if error.downcast_ref().is_some_and(Error::is_transient) => {
                    tokio::time::sleep(backoff.delay()).await;
                }
                Err(error) => return Err(error),
            }
        };
        let key = |object: &dyn Object| (object.meta().namespace.clone(), object.meta().name.clone());
        let there: HashSet<(String, String)> = listed.iter().map(|object| key(object.as_ref())).collect();
        let gone: Vec<_> = self.seen.keys().filter(|key| !there.contains(*key)).cloned().collect();
        for key in gone {
            self.session.note(format_args!("{} deleted", display(self.kind, &key.1)));
            self.seen.remove(&key);
        }
        Ok(())
    }

    fn print(&mut self, object: Box<dyn Object>) -> Result<()> {
        if !self.format.is_table() {
            return output::print_objects(self.session, &[object], true, self.format);
        }
        let wide = *self.format == Format::Wide;
        let grid = output::grid(self.kind, &[object], (self.session.now)(), wide, &self.extras);
        self.extras.no_headers = true;
        self.session.print(grid)
    }
}
