//! Arguments of single plugins.

use serde::Deserialize;
use serde_json::Value;

use super::{ConfigurationError, Result};
use crate::settings::{Settings, Strategy, UtilizationPoint};

/// What every plugin's arguments may begin with.
type Header = Option<String>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fit {
    #[serde(rename = "apiVersion")]
    _api_version: Header,
    #[serde(rename = "kind")]
    _kind: Header,
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    r#type: StrategyType,
    #[serde(default)]
    resources: Vec<Resource>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum StrategyType {
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Balanced {
    #[serde(rename = "apiVersion")]
    _api_version: Header,
    #[serde(rename = "kind")]
    _kind: Header,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodAffinity {
    #[serde(rename = "apiVersion")]
    _api_version: Header,
    #[serde(rename = "kind")]
    _kind: Header,
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Preemption {
    #[serde(rename = "apiVersion")]
    _api_version: Header,
    #[serde(rename = "kind")]
    _kind: Header,
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

pub(super) fn read(plugin: &str, args: Value, at: &str, settings: &mut Settings) -> Result<()> {
    match plugin {
        "NodeResourcesFit" => read_fit(super::read(at, args)?, at, settings),
        "NodeResourcesBalancedAllocation" => read_balanced(super::read(at, args)?, at, settings),
        "InterPodAffinity" => read_pod_affinity(super::read(at, args)?, at, settings),
        "DefaultPreemption" => read_preemption(super::read(at, args)?, at, settings),
        _ => Err(ConfigurationError::at(at, "the plugin takes no arguments")),
    }
}

fn read_fit(args: Fit, at: &str, settings: &mut Settings) -> Result<()> {
    let fit = &mut settings.fit;
    fit.ignored = args.ignored_resources;
    fit.ignored_groups = args.ignored_resource_groups;
    let Some(scoring) = args.scoring_strategy else { return Ok(()) };
    let at = format!("{at}.scoringStrategy");
    if !scoring.resources.is_empty() {
        fit.resources = weighted(scoring.resources, &format!("{at}.resources"))?;
    }
    fit.strategy = match scoring.r#type {
        StrategyType::LeastAllocated => Strategy::LeastAllocated,
        StrategyType::MostAllocated => Strategy::MostAllocated,
        StrategyType::RequestedToCapacityRatio => {
            let shape = scoring.requested_to_capacity_ratio.map(|ratio| ratio.shape).unwrap_or_default();
            Strategy::RequestedToCapacityRatio(points(
                &shape,
                &format!("{at}.requestedToCapacityRatio.shape"),
            )?)
        }
    };
    Ok(())
}

fn points(shape: &[Point], at: &str) -> Result<Vec<UtilizationPoint>> {
    if shape.is_empty() {
        return Err(ConfigurationError::at(at, "want at least one point"));
    }
    let mut points: Vec<UtilizationPoint> = Vec::new();
    for (index, Point { utilization, score }) in shape.iter().enumerate() {
        let at = format!("{at}[{index}]");
        within(*utilization, 0, 100, &format!("{at}.utilization"))?;
        within(*score, 0, 10, &format!("{at}.score"))?;
        if points.last().is_some_and(|last| last.utilization >= *utilization) {
            let why = format!("want more than the point before has, found {utilization}");
            return Err(ConfigurationError::at(format!("{at}.utilization"), why));
        }
        points.push(UtilizationPoint { utilization: *utilization, score: *score });
    }
    Ok(points)
}

fn read_balanced(args: Balanced, at: &str, settings: &mut Settings) -> Result<()> {
    if !args.resources.is_empty() {
        let resources = weighted(args.resources, &format!("{at}.resources"))?;
        // As in Kubernetes: in a balance all weigh the same.
        if let Some((index, _)) = resources.iter().enumerate().find(|(_, (_, weight))| *weight != 1) {
            return Err(ConfigurationError::at(format!("{at}.resources[{index}].weight"), "want 1"));
        }
        settings.balanced = resources.into_iter().map(|(name, _)| name).collect();
    }
    Ok(())
}

fn read_pod_affinity(args: PodAffinity, at: &str, settings: &mut Settings) -> Result<()> {
    if let Some(weight) = args.hard_pod_affinity_weight {
        within(weight, 0, 100, &format!("{at}.hardPodAffinityWeight"))?;
        settings.pod_affinity.hard_weight = weight;
    }
    settings.pod_affinity.ignore_preferred_terms_of_others = args.ignore_preferred_terms_of_existing_pods;
    Ok(())
}

fn read_preemption(args: Preemption, at: &str, settings: &mut Settings) -> Result<()> {
    let limits = &mut settings.preemption;
    limits.candidates_percentage =
        args.min_candidate_nodes_percentage.unwrap_or(limits.candidates_percentage);
    limits.candidates_absolute = args.min_candidate_nodes_absolute.unwrap_or(limits.candidates_absolute);
    if limits.candidates_percentage > 100 {
        let why = format!("want 0 to 100, found {}", limits.candidates_percentage);
        return Err(ConfigurationError::at(format!("{at}.minCandidateNodesPercentage"), why));
    }
    if limits.candidates_percentage == 0 && limits.candidates_absolute == 0 {
        let why = "one of minCandidateNodesPercentage and minCandidateNodesAbsolute must be above 0";
        return Err(ConfigurationError::at(at, why));
    }
    Ok(())
}

/// Resources with weights; 1 where none is given.
fn weighted(resources: Vec<Resource>, at: &str) -> Result<Vec<(String, i64)>> {
    let mut found: Vec<(String, i64)> = Vec::new();
    for (index, Resource { name, weight }) in resources.into_iter().enumerate() {
        let weight = if weight == 0 { 1 } else { weight };
        within(weight, 1, 100, &format!("{at}[{index}].weight"))?;
        if name.is_empty() || found.iter().any(|(known, _)| *known == name) {
            let why = if name.is_empty() {
                "want a name".to_owned()
            } else {
                format!("{name:?} stands there twice")
            };
            return Err(ConfigurationError::at(format!("{at}[{index}].name"), why));
        }
        found.push((name, weight));
    }
    Ok(found)
}

fn within(value: i64, least: i64, most: i64, at: &str) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigurationError::at(at, format!("want {least} to {most}, found {value}")))
}
