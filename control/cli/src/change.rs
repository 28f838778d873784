//! What a verb says of the objects that it changed: `deployment.apps/web scaled`, or the objects with `-o`.

use std::cell::Cell;

use anyhow::Result;
use weir_client::DynamicApi;
use weir_proto::{Kind, Object};

use crate::arguments::{Changing, DryRun};
use crate::output::{self, Format};
use crate::session::Session;
use crate::target::display;

pub(crate) struct Changes<'s> {
    session: &'s Session,
    dry_run: DryRun,
    format: Option<Format>,
    printed: Cell<bool>,
}

impl<'s> Changes<'s> {
    pub(crate) fn new(session: &'s Session, options: &Changing) -> Result<Self> {
        let format =
            options.output.as_deref().filter(|word| !word.is_empty()).map(Format::parse).transpose()?;
        Ok(Self { session, dry_run: options.dry_run, format, printed: Cell::new(false) })
    }

    /// Nothing is sent at all.
    pub(crate) fn stays_here(&self) -> bool {
        self.dry_run == DryRun::Client
    }

    /// Where to send changes.
    pub(crate) fn api(&self, kind: &'static Kind, namespace: &str) -> DynamicApi {
        self.session.api(kind, namespace).dry_run(self.dry_run == DryRun::Server)
    }

    /// Creates an object, or with `--dry-run=client` only says so.
    pub(crate) async fn create(&self, mut object: Box<dyn Object>, done: &str) -> Result<()> {
        let kind = object.kind();
        // What is only printed may be meant for any namespace.
        if !self.stays_here() || self.session.namespace != "default" {
            self.place(&mut object);
        }
        if !self.stays_here() {
            object = self.api(kind, &object.meta().namespace).create(object.as_ref()).await?;
        }
        self.report(object.as_ref(), done)
    }

    /// Updates an object, or with `--dry-run=client` only says so.
    pub(crate) async fn update(&self, mut object: Box<dyn Object>, done: &str) -> Result<()> {
        self.place(&mut object);
        if !self.stays_here() {
            object = self.api(object.kind(), &object.meta().namespace).update(object.as_ref()).await?;
        }
        self.report(object.as_ref(), done)
    }

    fn place(&self, object: &mut Box<dyn Object>) {
        if object.kind().namespaced && object.meta().namespace.is_empty() {
            object.meta_mut().namespace = self.session.namespace.clone();
        }
    }

    /// Says what was done, once it was.
    pub(crate) fn report(&self, object: &dyn Object, done: &str) -> Result<()> {
        let Some(format) = &self.format else {
            return self.said(object.kind(), &object.meta().name, done);
        };
        if *format == Format::Yaml && self.printed.replace(true) {
            self.session.say("---")?;
        }
        output::print_objects(self.session, &[object.clone_box()], true, format)
    }

    pub(crate) fn said(&self, kind: &Kind, name: &str, done: &str) -> Result<()> {
        let note = match self.dry_run {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        };
        if self.format == Some(Format::Name) {
            return self.session.say(display(kind, name));
        }
        self.session.say(format_args!("{} {done}{note}", display(kind, name)))
    }
}
