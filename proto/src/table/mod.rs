//! Printer columns: what people see of an object in a table, in kubectl's words.
//!
//! [`row`] has a cell for each of [`Kind::columns`]; [`header`] and [`cells`] give whole tables, names included.

mod config;
mod duration;
mod event;
mod network;
mod node;
mod pod;
mod workload;

use std::collections::BTreeMap;

use crate::core::v1 as core;
use crate::kind::{Column, Kind};
use crate::meta::v1::{ObjectMeta, Time};
use crate::net::v1alpha1::DataplaneNode;
use crate::object::Object;
use crate::{apps, coordination, discovery, scheduling};

pub use duration::human_duration;

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";
const UNSET: &str = "<unset>";

/// The object's cells, one for each of its kind's columns.
pub fn row(object: &dyn Object, now: Time) -> Vec<String> {
    let any = object.as_any();
    macro_rules! first_of {
        ($($kind:ty => $cells:path),* $(,)?) => {
            $(if let Some(object) = any.downcast_ref::<$kind>() {
                return $cells(object, now);
            })*
        };
    }
    first_of! {
        core::Pod => pod::cells,
        core::Node => node::cells,
        DataplaneNode => node::dataplane_cells,
        core::Namespace => config::namespace_cells,
        core::ConfigMap => config::config_map_cells,
        core::Secret => config::secret_cells,
        core::ServiceAccount => config::service_account_cells,
        core::Service => network::service_cells,
        discovery::v1::EndpointSlice => network::endpoint_slice_cells,
        coordination::v1::Lease => config::lease_cells,
        scheduling::v1::PriorityClass => config::priority_class_cells,
        core::Event => event::cells,
        core::PodTemplate => workload::pod_template_cells,
        apps::v1::Deployment => workload::deployment_cells,
        apps::v1::ReplicaSet => workload::replica_set_cells,
    }
    // A kind without cells of its own shows how old its objects are.
    let cell =
        |column: &Column| if column.name == "AGE" { age(object.meta(), now) } else { UNKNOWN.to_owned() };
    object.kind().columns.iter().map(cell).collect()
}

/// Titles of a table's columns. Events are known by what they are about, so their name is the last, wide column.
pub fn header(kind: &Kind, wide: bool) -> Vec<&'static str> {
    let titles =
        kind.columns.iter().filter(|column| wide || !column.wide).map(|column| column.name).collect();
    with_name(kind, wide, "NAME", titles)
}

/// The object's line of the table under [`header`].
pub fn cells(object: &dyn Object, now: Time, wide: bool) -> Vec<String> {
    let columns = object.kind().columns.iter();
    let shown = row(object, now).into_iter().zip(columns).filter(|(_, column)| wide || !column.wide);
    with_name(object.kind(), wide, object.meta().name.clone(), shown.map(|(cell, _)| cell).collect())
}

fn with_name<T>(kind: &Kind, wide: bool, name: T, mut cells: Vec<T>) -> Vec<T> {
    match (kind.kind, wide) {
        ("Event", true) => cells.push(name),
        ("Event", false) => {}
        _ => cells.insert(0, name),
    }
    cells
}

fn age(meta: &ObjectMeta, now: Time) -> String {
    since(meta.creation_timestamp, now)
}

/// How long ago, "<unknown>" when never.
fn since(time: Option<Time>, now: Time) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), |time| human_duration(now.unix().saturating_sub(time.unix())))
}

fn or(text: &str, empty: &str) -> String {
    if text.is_empty() { empty.to_owned() } else { text.to_owned() }
}

/// "a=b,c=d".
fn pairs(map: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
    or(&pairs.join(","), NONE)
}

#[cfg(test)]
mod tests;
