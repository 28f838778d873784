//! The command line's grammar: kubectl's names and short forms.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    #[arg(long, global = true, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig context to use
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// The namespace [default: the context's, or "default"]
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the kinds that the API serves
    ApiResources,
    /// Bring objects to the state that files describe, creating those that are not there
    Apply(Apply),
    /// Create objects from files
    Create(Create),
    /// Delete objects by name, by selector or by file
    Delete(Delete),
    /// Show one object in full, with its events
    Describe(Describe),
    /// Show objects
    Get(Get),
    /// Print what a container wrote
    Logs(Logs),
    /// Read the dataplane of the nodes, straight from the kernel's maps
    Net(Net),
    /// Follow or restart a rollout
    Rollout {
        #[command(subcommand)]
        verb: Rollout,
    },
    /// Set how many replicas a Deployment or ReplicaSet runs
    Scale(Scale),
}

/// Where manifests come from.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// A file, a directory, or - for standard input; may be given several times
    #[arg(long = "filename", short = 'f')]
    pub(crate) filenames: Vec<String>,
    /// Go into the directories below a directory too
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// What to do about fields that the kind does not have
    #[arg(long, value_enum, default_value_t = Validate::Strict)]
    pub(crate) validate: Validate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Validate {
    Strict,
    Warn,
    Ignore,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Have the server check it all and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Have the server check it all and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// TYPE [NAME …], TYPE,TYPE, or TYPE/NAME …
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    /// table (default), wide, json, yaml or name
    #[arg(long, short, default_value = "table")]
    pub(crate) output: String,
    /// Objects of all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
    /// Only objects whose labels match, as in app=web,tier!=db
    #[arg(long, short = 'l', default_value = "")]
    pub(crate) selector: String,
    /// Only objects whose fields match, as in status.phase=Running
    #[arg(long, default_value = "")]
    pub(crate) field_selector: String,
    /// Go on printing objects as they change
    #[arg(long, short)]
    pub(crate) watch: bool,
    #[arg(long)]
    pub(crate) no_headers: bool,
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// An object that is not there is no error
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// TYPE NAME … or TYPE/NAME …
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    /// Only objects whose labels match
    #[arg(long, short = 'l', default_value = "")]
    pub(crate) selector: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// TYPE NAME … or TYPE/NAME …
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) files: Files,
    /// Objects whose labels match
    #[arg(long, short = 'l', default_value = "")]
    pub(crate) selector: String,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub(crate) all: bool,
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Seconds that a pod gets to end; -1: its own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) grace_period: i64,
    /// Take the object out of the API at once, whatever still runs of it; with --grace-period=0
    #[arg(long)]
    pub(crate) force: bool,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) wait: bool,
    /// What becomes of objects that the deleted ones own
    #[arg(long, value_enum, default_value_t = Cascade::Background)]
    pub(crate) cascade: Cascade,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Cascade {
    Background,
    Foreground,
    Orphan,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// POD, or TYPE/NAME for one of the pods of a Deployment or ReplicaSet
    pub(crate) target: String,
    /// The container, where the pod has several
    #[arg(long, short)]
    pub(crate) container: Option<String>,
    /// Go on as the container writes
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The container before its last restart
    #[arg(long, short)]
    pub(crate) previous: bool,
    /// Only the last lines; -1: all
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub(crate) tail: i64,
    /// Only lines younger than this many seconds, or 5m, 2h
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Begin each line with its time
    #[arg(long)]
    pub(crate) timestamps: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Net {
    #[arg(value_enum)]
    pub(crate) view: View,
    /// Of this node only
    #[arg(long)]
    pub(crate) node: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum View {
    /// Service addresses and ports, as the load balancer looks them up
    Services,
    /// The slots that services point into: who serves
    Backends,
    /// Every pinned map: its type, sizes, entries, who writes it and who reads it
    Maps,
    /// Flows that the dataplane translates
    Conntrack,
    /// Dropped packets by reason
    Drops,
    /// Pods' links: what may be sent from where
    Links,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Wait until a Deployment's newest template runs everywhere
    Status {
        /// deployment NAME or deployment/NAME
        #[arg(required = true)]
        target: Vec<String>,
        /// Give up after this many seconds; 0: never
        #[arg(long, default_value_t = 0)]
        timeout: u64,
    },
    /// Replace every pod of a Deployment, as its strategy says
    Restart {
        #[arg(required = true)]
        target: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// TYPE NAME … or TYPE/NAME …
    #[arg(required = true)]
    pub(crate) targets: Vec<String>,
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) replicas: i32,
    /// Only where it runs this many now
    #[arg(long)]
    pub(crate) current_replicas: Option<i32>,
}
