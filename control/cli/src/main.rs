//! `weir`: the command line. kubectl's verbs, flags and wording wherever kubectl has the verb; `weir net` reads the
//! dataplane.
//!
//! Every verb is a file in `verbs/`; each goes through the API alone.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line: it talks to the terminal")]

mod apply;
mod arguments;
mod failure;
mod manifest;
mod output;
mod session;
mod target;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use session::Session;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    match &arguments.command {
        Command::ApiResources => verbs::api_resources::run(),
        Command::Apply(options) => apply::run(&Session::open(connection)?, options).await,
        Command::Create(options) => verbs::create::run(&Session::open(connection)?, options).await,
        Command::Delete(options) => verbs::delete::run(&Session::open(connection)?, options).await,
        Command::Describe(options) => verbs::describe::run(&Session::open(connection)?, options).await,
        Command::Get(options) => verbs::get::run(&Session::open(connection)?, options).await,
        Command::Logs(options) => verbs::logs::run(&Session::open(connection)?, options).await,
        Command::Net(options) => verbs::net::run(&Session::open(connection)?, options).await,
        Command::Rollout { verb } => verbs::rollout::run(&Session::open(connection)?, verb).await,
        Command::Scale(options) => verbs::scale::run(&Session::open(connection)?, options).await,
    }
}
