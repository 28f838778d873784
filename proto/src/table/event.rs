//! Events: the newest kind of count wins, the series over the old counters.

use super::{UNKNOWN, human_duration, since};
use crate::core::v1::Event;
use crate::meta::v1::Time;

pub(super) fn cells(event: &Event, now: Time) -> Vec<String> {
    let object = event.involved_object.clone().unwrap_or_default();
    let first = event.first_timestamp.or(event.event_time.map(Time::from));
    let last = event.last_timestamp.or(first);
    let (last, count) = match &event.series {
        Some(series) => (series.last_observed_time.map(Time::from).or(last), series.count),
        None => (last, event.count),
    };
    vec![
        last_seen(first, last, count, now),
        event.r#type.clone(),
        event.reason.clone(),
        format!("{}/{}", object.kind.to_lowercase(), object.name),
        event.message.trim().to_owned(),
        object.field_path,
        source(event),
        since(first, now),
        count.max(1).to_string(),
    ]
}

/// "5s", or "5s (x7 over 2m)" for repeats.
fn last_seen(first: Option<Time>, last: Option<Time>, count: i32, now: Time) -> String {
    match (first, last) {
        (Some(first), Some(last)) if count > 1 => {
            let age = |time: Time| human_duration(now.unix().saturating_sub(time.unix()));
            format!("{} (x{count} over {})", age(last), age(first))
        }
        (_, Some(last)) => since(Some(last), now),
        (_, None) => UNKNOWN.to_owned(),
    }
}

fn source(event: &Event) -> String {
    let source = event.source.clone().unwrap_or_default();
    let component = if source.component.is_empty() { &event.reporting_component } else { &source.component };
    if source.host.is_empty() { component.clone() } else { format!("{component}, {}", source.host) }
}
