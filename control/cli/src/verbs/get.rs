//! `weir get`: objects as tables or documents, once or as they change.

use anyhow::{Result, bail};
use futures::TryStreamExt;
use weir_client::{ListOptions, WatchEvent, WatchOptions};
use weir_proto::{Kind, Object};

use crate::arguments::Get;
use crate::output::{self, Extras, Format};
use crate::session::Session;
use crate::target::{self, Target};

pub(crate) async fn run(session: &Session, options: &Get) -> Result<()> {
    let format = Format::parse(&options.output)?;
    let targets = target::parse(&options.targets)?;
    if options.watch {
        return watch(session, options, &targets, format).await;
    }
    let mut found: Vec<(&'static Kind, Vec<Box<dyn Object>>)> = Vec::new();
    for target in &targets {
        let objects = fetch(session, options, target).await?;
        // Objects of one kind belong into one table, however they were named.
        match found.iter_mut().find(|(kind, _)| *kind == target.kind) {
            Some((_, present)) => present.extend(objects),
            None => found.push((target.kind, objects)),
        }
    }
    if format.is_table() {
        tables(session, options, &found, format);
        return Ok(());
    }
    let alone = matches!(targets.as_slice(), [Target { name: Some(_), .. }]);
    let objects: Vec<Box<dyn Object>> = found.into_iter().flat_map(|(_, objects)| objects).collect();
    if alone && objects.is_empty() {
        return Ok(());
    }
    output::print_objects(&objects, alone, format)
}

async fn fetch(session: &Session, options: &Get, target: &Target) -> Result<Vec<Box<dyn Object>>> {
    let Some(name) = &target.name else {
        let list = ListOptions {
            label_selector: options.selector.clone(),
            field_selector: options.field_selector.clone(),
            ..ListOptions::default()
        };
        let api = if options.all_namespaces {
            session.client.dynamic(target.kind, None)
        } else {
            session.api(target.kind, "")
        };
        return Ok(api.list(&list).await?.items);
    };
    if !options.selector.is_empty() || !options.field_selector.is_empty() {
        bail!("a selector and a name do not go together");
    }
    if options.all_namespaces && target.kind.namespaced {
        bail!("a name and --all-namespaces do not go together");
    }
    let api = session.api(target.kind, "");
    if options.ignore_not_found {
        return Ok(api.get_opt(name).await?.into_iter().collect());
    }
    Ok(vec![api.get(name).await?])
}

fn tables(session: &Session, options: &Get, found: &[(&'static Kind, Vec<Box<dyn Object>>)], format: Format) {
    let mut shown = 0;
    for (kind, objects) in found.iter().filter(|(_, objects)| !objects.is_empty()) {
        if shown > 0 {
            println!();
        }
        shown += 1;
        print!("{}", output::grid(kind, objects, format, extras(options, kind, found.len() > 1)));
    }
    if shown == 0 && !options.ignore_not_found {
        let everywhere = options.all_namespaces || found.iter().all(|(kind, _)| !kind.namespaced);
        if everywhere {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", session.namespace);
        }
    }
}

fn extras(options: &Get, kind: &Kind, typed_names: bool) -> Extras {
    Extras {
        namespace: options.all_namespaces && kind.namespaced,
        labels: options.show_labels,
        no_headers: options.no_headers,
        typed_names,
    }
}

/// Prints each object as it is and then as it changes, until interrupted.
async fn watch(session: &Session, options: &Get, targets: &[Target], format: Format) -> Result<()> {
    let [target] = targets else { bail!("--watch follows one type at a time") };
    let mut field_selector = options.field_selector.clone();
    if let Some(name) = &target.name {
        let comma = if field_selector.is_empty() { "" } else { "," };
        field_selector.push_str(&format!("{comma}metadata.name={name}"));
    }
    let api = if options.all_namespaces {
        session.client.dynamic(target.kind, None)
    } else {
        session.api(target.kind, "")
    };
    let watch =
        WatchOptions { label_selector: options.selector.clone(), field_selector, ..WatchOptions::default() };
    let mut events = api.watch(&watch).await?;
    let mut extras = extras(options, target.kind, false);
    while let Some(event) = events.try_next().await? {
        let (WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object)) = event
        else {
            continue;
        };
        if format.is_table() {
            print!("{}", output::grid(target.kind, &[object], format, extras));
            extras.no_headers = true;
        } else {
            output::print_objects(&[object], true, format)?;
        }
    }
    bail!("the server ended the watch")
}
