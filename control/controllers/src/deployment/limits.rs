//! How many pods a rollout may have at most and must have at least.

use weir_proto::IntOrString;
use weir_proto::apps::v1::Deployment;

/// Numbers of pods, resolved from counts and percentages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) replicas: i32,
    /// This many above `replicas`.
    pub(super) surge: i32,
    /// This many of `replicas` may be missing.
    pub(super) unavailable: i32,
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec().strategy.as_ref().is_some_and(|strategy| strategy.r#type == "Recreate")
}

impl Limits {
    pub(super) fn of(deployment: &Deployment) -> Limits {
        let replicas = replicas(deployment);
        if is_recreate(deployment) {
            return Limits { replicas, surge: 0, unavailable: replicas };
        }
        let strategy = deployment.spec().strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        // What cannot be read (validation lets none pass) counts as nothing.
        let resolve = |value: Option<&IntOrString>, round_up: bool| {
            let value = value.cloned().unwrap_or_else(|| IntOrString::from("25%"));
            value.scaled(replicas, round_up).unwrap_or(0).max(0)
        };
        let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
        let mut unavailable = resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
        if surge == 0 && unavailable == 0 {
            // Neither up nor down would never end.
            unavailable = 1;
        }
        Limits { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    pub(super) fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    pub(super) fn least_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec().replicas.unwrap_or(1).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let value = |text: &str| Some(text.parse::<i32>().map_or(IntOrString::from(text), IntOrString::from));
        let rolling =
            RollingUpdateDeployment { max_surge: value(surge), max_unavailable: value(unavailable) };
        let mut deployment = Deployment::default();
        deployment.spec_mut().replicas = Some(replicas);
        deployment.spec_mut().strategy =
            Some(DeploymentStrategy { r#type: "RollingUpdate".to_owned(), rolling_update: Some(rolling) });
        deployment
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down_and_never_both_to_nothing() {
        let cases = [
            ((10, "25%", "25%"), (3, 2)),
            ((1, "25%", "25%"), (1, 0)),
            ((4, "0", "0"), (0, 1)),
            ((3, "0", "10%"), (0, 1)),
            ((2, "0", "5"), (0, 2)),
            ((0, "25%", "25%"), (0, 0)),
        ];
        for ((replicas, surge, unavailable), expected) in cases {
            let limits = Limits::of(&deployment(replicas, surge, unavailable));
            assert_eq!((limits.surge, limits.unavailable), expected, "{replicas} {surge} {unavailable}");
        }
    }

    #[test]
    fn without_a_strategy_a_quarter_may_come_and_go() {
        let mut deployment = Deployment::default();
        deployment.spec_mut().replicas = Some(8);
        assert_eq!(Limits::of(&deployment), Limits { replicas: 8, surge: 2, unavailable: 2 });
    }
}
