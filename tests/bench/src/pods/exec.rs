//! Commands in a running pod: through the API server to the agent, into the container, and its exit code back, over a
//! connection of the client's that is there already.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::Args;
use futures::stream::{self, StreamExt};
use serde::Serialize;
use weir_client::Client;
use weir_proto::weir::v1::{ExecRequest, SessionInput, SessionOutput, session_input, session_output};

use super::Crowd;
use crate::objects;

/// Not counted: the first commands fill caches.
const WARM_UP: usize = 5;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(long)]
    count: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    milliseconds: Vec<f64>,
}

pub(super) async fn run(mut crowd: Crowd, options: &Options) -> Result<Measured> {
    let name = "exec".to_owned();
    crowd.api.create(&objects::echo_pod(&name, false)?).await?;
    crowd.watched.until("ready", |seen| seen.ready.contains_key(&name)).await?;
    let mut milliseconds = Vec::new();
    for round in 0..options.count + WARM_UP {
        let asked = Instant::now();
        let code = exec(&crowd.client, &name).await?;
        ensure!(code == 0, "the command ended with {code}");
        if round >= WARM_UP {
            milliseconds.push(asked.elapsed().as_secs_f64() * 1e3);
        }
    }
    crowd.remove(&[name]).await?;
    Ok(Measured { milliseconds })
}

async fn exec(client: &Client, pod: &str) -> Result<i32> {
    let request = ExecRequest {
        namespace: objects::NAMESPACE.to_owned(),
        pod: pod.to_owned(),
        command: objects::NOTHING.map(str::to_owned).into(),
        stdout: true,
        stderr: true,
        ..ExecRequest::default()
    };
    let first = SessionInput { frame: Some(session_input::Frame::Exec(request)) };
    // Kept open until the exit is there, as a client with a keyboard would.
    let inputs = stream::once(async { first }).chain(stream::pending());
    let mut outputs = client.streams().exec(inputs).await?.into_inner();
    while let Some(SessionOutput { frame }) = outputs.message().await? {
        if let Some(session_output::Frame::Exit(exit)) = frame {
            return Ok(exit.code);
        }
    }
    bail!("the session ended without a result")
}
