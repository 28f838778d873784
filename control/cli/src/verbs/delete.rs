//! `weir delete`: by name, by selector or by file; waits until what was deleted is gone.

use std::time::Duration;

use anyhow::{Result, bail};
use weir_client::{DeleteOptions, ListOptions, Propagation};
use weir_proto::Kind;

use crate::arguments::{Cascade, Delete};
use crate::manifest;
use crate::session::Session;
use crate::target::{self, display};

/// An object to delete; its uid where it is known, so that no successor of the name is hit.
struct Doomed {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

pub(crate) async fn run(session: &Session, options: &Delete) -> Result<()> {
    let grace_period_seconds = grace_period(options)?;
    let mut gone = Vec::new();
    for doomed in find(session, options).await? {
        let api = session.api(doomed.kind, &doomed.namespace);
        let delete = DeleteOptions {
            grace_period_seconds,
            propagation: match options.cascade {
                Cascade::Background => Propagation::Background,
                Cascade::Foreground => Propagation::Foreground,
                Cascade::Orphan => Propagation::Orphan,
            },
            ..DeleteOptions::default()
        };
        match api.delete(&doomed.name, &delete).await {
            Ok(object) => {
                let how = if options.force { " force deleted" } else { " deleted" };
                println!("{}{how}", display(doomed.kind, &doomed.name));
                gone.push((doomed, object.meta().uid.clone()));
            }
            Err(error) if error.is_not_found() && options.ignore_not_found => {}
            Err(error) => return Err(error.into()),
        }
    }
    if options.wait {
        for (doomed, uid) in gone {
            wait(session, &doomed, &uid).await?;
        }
    }
    Ok(())
}

fn grace_period(options: &Delete) -> Result<Option<i64>> {
    match (options.grace_period, options.force) {
        (-1, false) => Ok(None),
        (-1 | 0, true) => Ok(Some(0)),
        (0, false) => {
            bail!("--grace-period=0 takes a pod out of the API while it may still run: say --force too")
        }
        (seconds, false) if seconds > 0 => Ok(Some(seconds)),
        (seconds, _) => bail!("--grace-period={seconds} does not go with --force, or is negative"),
    }
}

async fn find(session: &Session, options: &Delete) -> Result<Vec<Doomed>> {
    if !options.files.filenames.is_empty() {
        let of = |manifest: manifest::Manifest| Doomed {
            kind: manifest.kind,
            namespace: manifest.object.meta().namespace.clone(),
            name: manifest.object.meta().name.clone(),
        };
        return Ok(manifest::read(&options.files)?.into_iter().map(of).collect());
    }
    if options.selector.is_empty() && !options.all {
        let of = |(kind, name)| Doomed { kind, namespace: String::new(), name };
        return Ok(target::parse_named(&options.targets)?.into_iter().map(of).collect());
    }
    let mut doomed = Vec::new();
    for target in target::parse(&options.targets)? {
        if target.name.is_some() {
            bail!("a name does not go with --all or a selector");
        }
        let list = ListOptions { label_selector: options.selector.clone(), ..ListOptions::default() };
        for object in session.api(target.kind, "").list(&list).await?.items {
            let meta = object.meta();
            doomed.push(Doomed {
                kind: target.kind,
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
            });
        }
    }
    Ok(doomed)
}

/// Asks until the object is gone, or another has taken its name.
async fn wait(session: &Session, doomed: &Doomed, uid: &str) -> Result<()> {
    let api = session.api(doomed.kind, &doomed.namespace);
    let mut pause = Duration::from_millis(20);
    while let Some(object) = api.get_opt(&doomed.name).await? {
        if object.meta().uid != uid {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    Ok(())
}
