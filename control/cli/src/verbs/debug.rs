//! `weir debug`: a container with the tools that a pod's own lack, added to the pod while it runs.
//!
//! Left out: copies of pods (`--copy-to`) and pods on nodes.

use std::hash::{BuildHasher, RandomState};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use weir_client::{Modified, WatchEvent, WatchOptions};
use weir_proto::core::v1::{
    Capabilities, ContainerState, EnvVar, EphemeralContainer, Pod, SeccompProfile, SecurityContext,
};
use weir_proto::weir::v1::AttachRequest;

use crate::remote::{self, session::Request};
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// POD, or TYPE/NAME for one of the pods of a Deployment, ReplicaSet or Service
    target: String,
    /// The image with the tools
    #[arg(long)]
    image: String,
    /// The container whose processes it sees [default: it has its own]
    #[arg(long = "target", value_name = "CONTAINER")]
    target_container: Option<String>,
    /// Name of the new container [default: made up]
    #[arg(long, short)]
    container: Option<String>,
    /// Hand standard input through
    #[arg(long, short = 'i')]
    stdin: bool,
    /// A terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// Attach to it [default: with -i]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    attach: Option<bool>,
    /// Print only what the container writes
    #[arg(long, short)]
    quiet: bool,
    /// NAME=VALUE
    #[arg(long)]
    env: Vec<String>,
    /// When the image is fetched
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// What it may: legacy, general, baseline, restricted, netadmin or sysadmin
    #[arg(long, default_value = "legacy")]
    profile: String,
    /// What follows -- are the arguments of the image's command, not the command
    #[arg(long)]
    arguments_only: bool,
    #[arg(long, hide = true)]
    copy_to: Option<String>,
    #[arg(long, hide = true)]
    share_processes: bool,
    /// The command, after --
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if options.copy_to.is_some() || options.share_processes {
        bail!("--copy-to and --share-processes are not supported: the pod itself is debugged");
    }
    if options.target.starts_with("node/") || options.target.starts_with("nodes/") {
        bail!("nodes are not debugged this way: run a privileged pod on the node");
    }
    let pod = remote::pod_of(session, &options.target).await?;
    let container = container(session, options, &pod)?;
    if let (Some(target), false) = (&options.target_container, options.quiet) {
        session.note(format_args!("Targeting container {target:?}."));
    }
    let api = session.client.namespaced::<Pod>(&session.namespace);
    let pod_name = &pod.meta().name;
    let add = |pod: &mut Pod| {
        // Told twice, where the first answer was lost.
        if pod.spec().ephemeral_containers.iter().all(|known| known.name != container.name) {
            pod.spec_mut().ephemeral_containers.push(container.clone());
        }
    };
    let (Modified::Written(pod) | Modified::Unchanged(pod)) =
        api.modify_subresource(pod_name, "ephemeralcontainers", add).await?;
    if !options.attach.unwrap_or(options.stdin) {
        return Ok(());
    }
    let state = begun(session, &pod, &container.name).await?;
    if state.terminated.is_some() {
        return super::logs::print(session, pod_name, &container.name).await;
    }
    attach(session, options, pod_name, &container.name).await
}

fn container(session: &Session, options: &Options, pod: &Pod) -> Result<EphemeralContainer> {
    let name = match &options.container {
        Some(name) => name.clone(),
        None => {
            let name = format!("debugger-{}", suffix());
            if !options.quiet {
                session.note(format_args!("Defaulting debug container name to {name}."));
            }
            name
        }
    };
    if pod.spec().ephemeral_containers.iter().any(|known| known.name == name) {
        bail!(
            "ephemeral container {name:?} is there already, and what is there is not changed; give another -c"
        );
    }
    let variable = |word: &String| {
        let (name, value) = word.split_once('=').with_context(|| format!("--env {word}: want NAME=VALUE"))?;
        Ok(EnvVar { name: name.to_owned(), value: value.to_owned(), ..EnvVar::default() })
    };
    let (command, args) = match options.arguments_only {
        true => (vec![], options.command.clone()),
        false => (options.command.clone(), vec![]),
    };
    Ok(EphemeralContainer {
        name,
        image: options.image.clone(),
        image_pull_policy: options.image_pull_policy.clone().unwrap_or_default(),
        target_container_name: options.target_container.clone().unwrap_or_default(),
        command,
        args,
        env: options.env.iter().map(variable).collect::<Result<_>>()?,
        stdin: options.stdin,
        tty: options.tty,
        termination_message_policy: "File".to_owned(),
        security_context: profile(&options.profile)?.map(Box::new),
        ..EphemeralContainer::default()
    })
}

/// kubectl's profiles.
fn profile(name: &str) -> Result<Option<SecurityContext>> {
    let adds = |names: &[&str]| SecurityContext {
        capabilities: Some(Capabilities {
            add: names.iter().map(|name| (*name).to_owned()).collect(),
            drop: vec![],
        }),
        ..SecurityContext::default()
    };
    Ok(match name {
        "legacy" | "baseline" => None,
        "general" => Some(adds(&["SYS_PTRACE"])),
        "netadmin" => Some(adds(&["NET_ADMIN", "NET_RAW"])),
        "sysadmin" => Some(SecurityContext { privileged: Some(true), ..SecurityContext::default() }),
        "restricted" => Some(SecurityContext {
            run_as_non_root: Some(true),
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: vec![], drop: vec!["ALL".to_owned()] }),
            seccomp_profile: Some(SeccompProfile {
                r#type: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..SecurityContext::default()
        }),
        other => bail!(
            "unknown profile: {other}; want legacy, general, baseline, restricted, netadmin or sysadmin"
        ),
    })
}

/// Waits until it runs, or has ended already; says what keeps it waiting.
async fn begun(session: &Session, pod: &Pod, container: &str) -> Result<ContainerState> {
    let api = session.client.namespaced::<Pod>(&session.namespace);
    let name = pod.meta().name.as_str();
    let options = WatchOptions { field_selector: format!("metadata.name={name}"), ..WatchOptions::default() };
    let mut said = String::new();
    loop {
        let mut events = api.watch(&options).await?;
        while let Some(event) = events.try_next().await? {
            let pod = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) if pod.meta().name == name => pod,
                WatchEvent::Deleted(pod) if pod.meta().name == name => bail!("pod {name} was deleted"),
                _ => continue,
            };
            let statuses = pod.status.iter().flat_map(|status| &status.ephemeral_container_statuses);
            let status = statuses.into_iter().find(|status| status.name == container);
            let state = status.and_then(|status| status.state.clone()).unwrap_or_default();
            if state.running.is_some() || state.terminated.is_some() {
                return Ok(state);
            }
            if let Some(waiting) = state.waiting.filter(|waiting| !waiting.message.is_empty())
                && waiting.message != said
            {
                session.note(format_args!("Warning: container {container}: {}", waiting.message));
                said = waiting.message;
            }
        }
    }
}

async fn attach(session: &Session, options: &Options, pod: &str, container: &str) -> Result<()> {
    let tty = remote::session::terminal(session, options.tty, options.quiet);
    if !options.quiet && options.stdin && tty {
        session.note("If you don't see a command prompt, try pressing enter.");
    }
    let request = AttachRequest {
        namespace: session.namespace.clone(),
        pod: pod.to_owned(),
        container: container.to_owned(),
        stdin: options.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        size: None,
    };
    remote::session::hold(session, &format!("attach to pod {pod}"), Request::Attach(request)).await.map(drop)
}

/// Five characters that no other container of the pod is likely to have.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = RandomState::new().hash_one(std::process::id());
    let mut letter = || {
        let index = usize::try_from(random % LETTERS.len() as u64).unwrap_or_default();
        random /= LETTERS.len() as u64;
        char::from(LETTERS[index])
    };
    (0..5).map(|_| letter()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_up_of_five_letters_and_differ() {
        let (one, other) = (suffix(), suffix());
        assert_eq!(one.len(), 5);
        assert_ne!(one, other);
    }

    #[test]
    fn profiles_are_kubectls() {
        let general = profile("general").expect("a profile").expect("a context");
        assert_eq!(general.capabilities.expect("capabilities").add, ["SYS_PTRACE"]);
        assert!(profile("legacy").expect("a profile").is_none());
        assert!(profile("odd").expect_err("refused").to_string().contains("unknown profile: odd"));
    }
}
