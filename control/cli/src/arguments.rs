//! The command line's grammar: kubectl's names and short forms. What a verb takes is declared beside the verb; here is
//! what verbs share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::apply;
use crate::verbs::{
    api_resources, attach, auth, completion, config, cordon, cp, create, debug, delete, describe, diff,
    drain, edit, events, exec, explain, expose, get, label, logs, net, patch, port_forward, replace, rollout,
    run, scale, taint, top, version, wait,
};

#[derive(Debug, Parser)]
#[command(name = "weir", version, about = "Controls a Weir cluster", propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The kubeconfig file [default: $KUBECONFIG, .weir/kubeconfig here or above, ~/.kube/config]
    #[arg(long, global = true, env = "KUBECONFIG", hide_env_values = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig context to use
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// The namespace [default: the context's, or "default"]
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
    /// The API server's URL, in place of the kubeconfig's
    #[arg(long, short, global = true)]
    pub(crate) server: Option<String>,
    /// A bearer token to be known by, in place of the kubeconfig's identity
    #[arg(long, global = true)]
    pub(crate) token: Option<String>,
    /// How long one request may take, as 30s or 2m; 0: as long as it usually may
    #[arg(long, global = true, default_value = "0", hide_default_value = true)]
    pub(crate) request_timeout: String,
    /// How much to log about what is done, 0 to 9
    #[arg(long = "v", short = 'v', global = true, default_value_t = 0, hide_default_value = true)]
    pub(crate) verbosity: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set annotations, or remove them with KEY-
    Annotate(label::Options),
    /// Print the kinds that the API serves
    ApiResources(api_resources::Options),
    /// Print the groups and versions that the API serves
    ApiVersions,
    /// Bring objects to the state that files describe, creating those that are not there
    Apply(apply::Options),
    /// Attach to a running container
    Attach(attach::Options),
    /// Say who one is to the API server
    Auth {
        #[command(subcommand)]
        verb: auth::Verb,
    },
    /// Print where the API server is
    ClusterInfo,
    /// Print a completion script for a shell
    Completion(completion::Options),
    /// Read and change the kubeconfig file
    Config {
        #[command(subcommand)]
        verb: config::Verb,
    },
    /// Take no new pods on nodes
    Cordon(cordon::Options),
    /// Copy files to and from containers
    Cp(cp::Options),
    /// Create objects from files, or of a few kinds from flags
    Create(create::Options),
    /// Add a container with tools to a running pod
    Debug(debug::Options),
    /// Delete objects by name, by selector or by file
    Delete(delete::Options),
    /// Show objects in full, with their events
    Describe(describe::Options),
    /// Show what applying files would change
    Diff(diff::Options),
    /// Empty a node: cordon it and evict its pods
    Drain(drain::Options),
    /// Change objects in an editor
    Edit(edit::Options),
    /// List events, the latest last
    Events(events::Options),
    /// Run a command in a container
    Exec(exec::Options),
    /// Describe a kind's fields
    Explain(explain::Options),
    /// Make a Service for pods
    Expose(expose::Options),
    /// Show objects
    Get(get::Options),
    /// Set labels, or remove them with KEY-
    Label(label::Options),
    /// Print what containers wrote
    Logs(logs::Options),
    /// Read the dataplane of the nodes, straight from the kernel's maps
    Net(net::Options),
    /// Change fields of an object
    Patch(patch::Options),
    /// Forward local ports to a pod
    PortForward(port_forward::Options),
    /// Replace objects by what files say
    Replace(replace::Options),
    /// Follow, repeat, undo or halt the rollout of a Deployment
    Rollout {
        #[command(subcommand)]
        verb: rollout::Verb,
    },
    /// Run an image in a pod
    Run(run::Options),
    /// Set how many replicas a Deployment or ReplicaSet runs
    Scale(scale::Options),
    /// Set taints of nodes, or remove them with KEY-
    Taint(taint::Options),
    /// Show how much CPU and memory is used
    Top {
        #[command(subcommand)]
        verb: top::Verb,
    },
    /// Take new pods on nodes again
    Uncordon(cordon::Options),
    /// Print this program's version and the server's
    Version(version::Options),
    /// Wait until objects are as wanted
    Wait(wait::Options),
}

/// Where manifests come from.
#[derive(Debug, Args, Default)]
pub(crate) struct Files {
    /// A file, a directory, a URL, or - for standard input; may be given several times
    #[arg(long = "filename", short = 'f', value_delimiter = ',')]
    pub(crate) filenames: Vec<String>,
    /// Go into the directories below a directory too
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// Not supported: build the manifests first
    #[arg(long, short = 'k', hide = true)]
    pub(crate) kustomize: Option<String>,
}

/// How strictly manifests are read.
#[derive(Debug, Args)]
pub(crate) struct Validation {
    /// What to do about fields that the kind does not have
    #[arg(long, value_enum, default_value_t = Validate::Strict, num_args = 0..=1, require_equals = true,
        default_missing_value = "strict")]
    pub(crate) validate: Validate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Validate {
    #[default]
    #[value(alias = "true")]
    Strict,
    Warn,
    #[value(alias = "false")]
    Ignore,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    #[default]
    None,
    /// Only say what would be sent
    Client,
    /// Have the server check it all and change nothing
    Server,
}

/// What every verb that changes objects takes.
#[derive(Debug, Args, Default)]
pub(crate) struct Changing {
    /// Change nothing
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, require_equals = true,
        default_missing_value = "client")]
    pub(crate) dry_run: DryRun,
    /// Print the objects: name, json, yaml, jsonpath=…, …
    #[arg(long, short)]
    pub(crate) output: Option<String>,
}

/// Which of a type's objects.
#[derive(Debug, Args, Default)]
pub(crate) struct Choosing {
    /// Objects whose labels match, as in app=web,tier!=db
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Objects whose fields match, as in status.phase=Running
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) field_selector: String,
    /// All objects of the type
    #[arg(long)]
    pub(crate) all: bool,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
