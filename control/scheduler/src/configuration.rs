//! The file of `--scheduler-config`: a KubeSchedulerConfiguration (`kubescheduler.config.k8s.io/v1`), as far as this
//! scheduler goes.
//!
//! There is one profile; of it, weights and arguments of the plugins may be set, and how long pods back off. What is
//! not known is refused by name, never ignored.

mod arguments;

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_proto::yaml;

use crate::run::Config;
use crate::settings::{Backoff, Settings};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("{0}")]
    Yaml(String),
    #[error("want one document, found {0}")]
    Documents(usize),
    #[error("{at}: {why}")]
    Field { at: String, why: String },
}

impl ConfigurationError {
    fn at(at: impl Into<String>, why: impl ToString) -> Self {
        Self::Field { at: at.into(), why: why.to_string() }
    }
}

type Result<T> = std::result::Result<T, ConfigurationError>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<Value>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    scheduler_name: Option<String>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

/// Of all extension points, only the weights of scores may be set.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugins {
    #[serde(default)]
    score: PluginSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<Plugin>,
    #[serde(default)]
    disabled: Vec<Plugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

/// Reads and checks a configuration.
pub fn parse(text: &str) -> Result<Config> {
    let documents = yaml::documents(text).map_err(|error| ConfigurationError::Yaml(error.to_string()))?;
    let [document] = &documents[..] else { return Err(ConfigurationError::Documents(documents.len())) };
    let file: File = read("the configuration", document.value.clone())?;
    if (file.api_version.as_str(), file.kind.as_str()) != (API_VERSION, KIND) {
        let why = format!("want {API_VERSION} {KIND}, found {} {}", file.api_version, file.kind);
        return Err(ConfigurationError::at("apiVersion, kind", why));
    }
    let mut config = Config::default();
    config.settings.backoff = backoff(&file)?;
    match file.profiles.as_slice() {
        [] => {}
        [profile] => read_profile(read("profiles[0]", profile.clone())?, &mut config)?,
        more => {
            return Err(ConfigurationError::at("profiles", format!("one is served, found {}", more.len())));
        }
    }
    Ok(config)
}

fn backoff(file: &File) -> Result<Backoff> {
    let mut backoff = Backoff::default();
    let seconds = |at: &str, seconds: Option<i64>, default: Duration| match seconds {
        None => Ok(default),
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
            _ => Err(ConfigurationError::at(at, format!("want 1 to 86400, found {seconds}"))),
        },
    };
    backoff.initial = seconds("podInitialBackoffSeconds", file.pod_initial_backoff_seconds, backoff.initial)?;
    backoff.longest = seconds("podMaxBackoffSeconds", file.pod_max_backoff_seconds, backoff.longest)?;
    if backoff.longest < backoff.initial {
        let why = "want at least podInitialBackoffSeconds";
        return Err(ConfigurationError::at("podMaxBackoffSeconds", why));
    }
    Ok(backoff)
}

fn read_profile(profile: Profile, config: &mut Config) -> Result<()> {
    if let Some(name) = profile.scheduler_name {
        if name.is_empty() {
            return Err(ConfigurationError::at("profiles[0].schedulerName", "want a name"));
        }
        config.scheduler_name = name;
    }
    weigh(&profile.plugins.score, &mut config.settings)?;
    let mut seen: Vec<String> = Vec::new();
    for PluginConfig { name, args } in profile.plugin_config {
        let at = format!("profiles[0].pluginConfig[{name}]");
        if seen.contains(&name) {
            return Err(ConfigurationError::at(at, "the plugin is configured twice"));
        }
        arguments::read(&name, args, &format!("{at}.args"), &mut config.settings)?;
        seen.push(name);
    }
    Ok(())
}

fn weigh(score: &PluginSet, settings: &mut Settings) -> Result<()> {
    let known = |settings: &mut Settings, at: &str, name: &str| -> Result<usize> {
        settings.weights.iter().position(|(known, _)| *known == name).ok_or_else(|| {
            let names: Vec<_> = settings.weights.iter().map(|(known, _)| *known).collect();
            let why = format!("{name:?} is no plugin that scores, those are: {}", names.join(", "));
            ConfigurationError::at(at, why)
        })
    };
    for plugin in &score.disabled {
        if plugin.name == "*" {
            settings.weights.iter_mut().for_each(|(_, weight)| *weight = 0);
            continue;
        }
        let index = known(settings, "profiles[0].plugins.score.disabled", &plugin.name)?;
        settings.weights[index].1 = 0;
    }
    for plugin in &score.enabled {
        let at = format!("profiles[0].plugins.score.enabled[{}]", plugin.name);
        let index = known(settings, &at, &plugin.name)?;
        settings.weights[index].1 = match plugin.weight {
            None | Some(0) => 1,
            Some(weight @ 1..=100) => weight,
            Some(other) => {
                return Err(ConfigurationError::at(at + ".weight", format!("want 1 to 100, found {other}")));
            }
        };
    }
    Ok(())
}

fn read<T: DeserializeOwned>(at: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| ConfigurationError::at(at, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Strategy, UtilizationPoint};

    fn parsed(text: &str) -> Result<Config> {
        parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}"))
    }

    fn arguments(plugin: &str, args: &str) -> Result<Config> {
        parsed(&format!("profiles: [{{pluginConfig: [{{name: {plugin}, args: {args}}}]}}]"))
    }

    #[test]
    fn what_is_not_said_is_as_in_kubernetes() {
        let config = parsed("").unwrap();
        assert_eq!(config.scheduler_name, "default-scheduler");
        assert_eq!(config.settings, Settings::default());
        assert_eq!(config.settings.weight("TaintToleration"), 3);
    }

    #[test]
    fn a_configuration_sets_strategy_weights_and_limits() {
        let config = parsed(
            "
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
profiles:
- schedulerName: packer
  plugins:
    score:
      disabled: [{name: ImageLocality}, {name: NodeResourcesFit}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResources: [example.com/nic]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: example.com/gpu, weight: 3}, {name: cpu}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]
  - name: NodeResourcesBalancedAllocation
    args: {resources: [{name: cpu, weight: 1}]}
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7, ignorePreferredTermsOfExistingPods: true}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 50, minCandidateNodesAbsolute: 5}
",
        )
        .unwrap();
        assert_eq!(config.scheduler_name, "packer");
        let settings = config.settings;
        assert_eq!((settings.backoff.initial.as_secs(), settings.backoff.longest.as_secs()), (2, 20));
        assert_eq!((settings.weight("NodeResourcesFit"), settings.weight("ImageLocality")), (5, 0));
        let shape = [(0, 0), (100, 10)].map(|(utilization, score)| UtilizationPoint { utilization, score });
        assert_eq!(settings.fit.strategy, Strategy::RequestedToCapacityRatio(shape.to_vec()));
        assert_eq!(settings.fit.resources, [("example.com/gpu".to_owned(), 3), ("cpu".to_owned(), 1)]);
        assert_eq!(settings.fit.ignored, ["example.com/nic"]);
        assert_eq!(settings.balanced, ["cpu"]);
        assert_eq!(settings.pod_affinity.hard_weight, 7);
        assert!(settings.pod_affinity.ignore_preferred_terms_of_others);
        assert_eq!(
            (settings.preemption.candidates_percentage, settings.preemption.candidates_absolute),
            (50, 5)
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let fit = |strategy: &str| arguments("NodeResourcesFit", &format!("{{scoringStrategy: {strategy}}}"));
        let ratio = |shape: &str| {
            fit(&format!("{{type: RequestedToCapacityRatio, requestedToCapacityRatio: {{shape: {shape}}}}}"))
        };
        for (found, expected) in [
            (parse("kind: Pod\napiVersion: v1"), "apiVersion, kind: want kubescheduler"),
            (parse("{"), ""),
            (parsed("extenders: []"), "the configuration: unknown field `extenders`"),
            (parsed("podInitialBackoffSeconds: 0"), "podInitialBackoffSeconds: want 1 to 86400, found 0"),
            (parsed("podMaxBackoffSeconds: 0"), "podMaxBackoffSeconds: want 1"),
            (
                parsed("podInitialBackoffSeconds: 9\npodMaxBackoffSeconds: 8"),
                "podMaxBackoffSeconds: want at least podInitialBackoffSeconds",
            ),
            (parsed("profiles: [{}, {}]"), "profiles: one is served, found 2"),
            (parsed("profiles: [{plugins: {filter: {}}}]"), "profiles[0]: unknown field `filter`"),
            (
                parsed("profiles: [{plugins: {score: {enabled: [{name: Luck}]}}}]"),
                "profiles[0].plugins.score.enabled[Luck]: \"Luck\" is no plugin that scores",
            ),
            (
                parsed("profiles: [{plugins: {score: {enabled: [{name: NodeAffinity, weight: 101}]}}}]"),
                "profiles[0].plugins.score.enabled[NodeAffinity].weight: want 1 to 100, found 101",
            ),
            (arguments("Luck", "{}"), "profiles[0].pluginConfig[Luck].args: the plugin takes no arguments"),
            (
                arguments("NodeAffinity", "{addedAffinity: {}}"),
                "profiles[0].pluginConfig[NodeAffinity].args: the plugin takes no arguments",
            ),
            (fit("{type: Best}"), "profiles[0].pluginConfig[NodeResourcesFit].args: unknown variant `Best`"),
            (
                fit("{type: LeastAllocated, resources: [{name: cpu, weight: 500}]}"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.resources[0].weight: want 1 to 100",
            ),
            (
                fit("{type: LeastAllocated, resources: [{name: cpu}, {name: cpu}]}"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.resources[1].name: \"cpu\" stands there twice",
            ),
            (
                fit("{type: RequestedToCapacityRatio}"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.requestedToCapacityRatio.shape: want at least one point",
            ),
            (
                ratio("[]"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.requestedToCapacityRatio.shape: want at least",
            ),
            (
                ratio("[{utilization: 101, score: 1}]"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.requestedToCapacityRatio.shape[0].utilization: want 0 to 100",
            ),
            (
                ratio("[{utilization: 1, score: 11}]"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.requestedToCapacityRatio.shape[0].score: want 0 to 10",
            ),
            (
                ratio("[{utilization: 9, score: 1}, {utilization: 9, score: 2}]"),
                "profiles[0].pluginConfig[NodeResourcesFit].args.scoringStrategy.requestedToCapacityRatio.shape[1].utilization: want more than",
            ),
            (
                arguments("InterPodAffinity", "{hardPodAffinityWeight: -1}"),
                "profiles[0].pluginConfig[InterPodAffinity].args.hardPodAffinityWeight: want 0 to 100",
            ),
            (
                arguments(
                    "DefaultPreemption",
                    "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}",
                ),
                "profiles[0].pluginConfig[DefaultPreemption].args: one of minCandidateNodesPercentage",
            ),
        ] {
            let said = found.unwrap_err().to_string();
            assert!(said.starts_with(expected), "{said:?} should start with {expected:?}");
        }
    }
}
