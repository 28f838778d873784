//! `weir attach`: the standard streams of what runs in a container already.

use anyhow::Result;
use weir_proto::weir::v1::AttachRequest;

use crate::remote::{self, session::Request};
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// POD, or TYPE/NAME for one of the pods of a Deployment, ReplicaSet or Service
    target: String,
    /// Hand standard input through; the container must have been made with stdin
    #[arg(long, short = 'i')]
    stdin: bool,
    /// The container's terminal; it must have been made with tty
    #[arg(long, short = 't')]
    tty: bool,
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Print only what the container writes
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let pod = remote::pod_of(session, &options.target).await?;
    let container = remote::container(session, &pod, options.container.as_deref(), options.quiet)?;
    let main = pod.spec().containers.iter().map(|known| (&known.name, known.tty));
    let ephemeral = pod.spec().ephemeral_containers.iter().map(|known| (&known.name, known.tty));
    let made_with = main.chain(ephemeral).find(|(name, _)| **name == container);
    let mut tty = options.tty;
    if tty && made_with.is_some_and(|(_, tty)| !tty) {
        tty = false;
        if !options.quiet {
            session.note(format_args!(
                "error: Unable to use a TTY - container {container} did not allocate one"
            ));
        }
    }
    let tty = remote::session::terminal(session, tty, options.quiet);
    if !options.quiet && options.stdin && tty {
        session.note("If you don't see a command prompt, try pressing enter.");
    }
    let name = pod.metadata.as_ref().map(|meta| meta.name.clone()).unwrap_or_default();
    let what = format!("attach to pod {name}");
    let request = AttachRequest {
        namespace: session.namespace.clone(),
        pod: name,
        container,
        stdin: options.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        size: None,
    };
    // As in kubectl the container's end is the session's, however it ended.
    remote::session::hold(session, &what, Request::Attach(request)).await.map(drop)
}
