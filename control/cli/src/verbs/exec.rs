//! `weir exec`: a command in a running container.

use anyhow::{Result, bail};
use weir_proto::weir::v1::ExecRequest;

use crate::remote::{self, session::Request};
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// POD, or TYPE/NAME for one of the pods of a Deployment, ReplicaSet or Service
    target: String,
    /// Hand standard input through
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Print only what the command writes
    #[arg(long, short)]
    quiet: bool,
    /// The command, after --
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if options.command.is_empty() {
        bail!("you must specify at least one command for the container");
    }
    let pod = remote::pod_of(session, &options.target).await?;
    let container = remote::container(session, &pod, options.container.as_deref(), options.quiet)?;
    let tty = remote::session::terminal(session, options.tty, options.quiet);
    let name = pod.meta().name.clone();
    let what = format!("exec in pod {name}");
    let request = ExecRequest {
        namespace: session.namespace.clone(),
        pod: name,
        container,
        command: options.command.clone(),
        stdin: options.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        size: None,
    };
    let code = remote::session::hold(session, &what, Request::Exec(request)).await?;
    remote::session::exit(session, code)
}
