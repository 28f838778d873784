//! The command line. kubectl's verbs, flags and wording wherever kubectl has the verb; `weir net` reads the dataplane.
//!
//! Every verb is a file in `verbs/`, with what it takes and what it does; each goes through the API alone. What a verb
//! prints goes through its [`session::Session`], so that tests run whole command lines against a server in memory and
//! compare what they say (`testdata/`).

#![expect(clippy::print_stderr, reason = "a command line: it talks to the terminal")]

mod apply;
mod arguments;
mod change;
mod duration;
mod failure;
mod fetch;
mod manifest;
mod output;
mod remote;
mod selection;
mod session;
mod target;
mod terminal;
#[cfg(test)]
mod transcript;
mod verbs;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use session::Session;
use terminal::Terminal;

/// The whole life of the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output and is no failure; a terminal that is gone cannot be told so.
            error.print().ok();
            return failure::exit(u8::from(error.use_stderr()));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return failure::exit(1);
        }
    };
    log(arguments.connection.verbosity);
    match runtime.block_on(run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::exit(failure::report(&Terminal::standard(), &error)),
    }
}

/// klog's levels, roughly: 6 says what is asked, 8 what the connection does.
fn log(verbosity: u8) {
    let level = match verbosity {
        0 => return,
        1..=5 => "info",
        6..=7 => "debug",
        _ => "trace",
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(colours).init();
}

/// Verbs that need no server, and the others.
async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let terminal = Terminal::standard();
    match &arguments.command {
        Command::ApiResources(options) => verbs::api_resources::run(&terminal, options),
        Command::ApiVersions => verbs::api_resources::versions(&terminal),
        Command::Completion(options) => verbs::completion::run(&terminal, options),
        Command::Config { verb } => verbs::config::run(&terminal, &arguments.connection, verb),
        Command::Explain(options) => verbs::explain::run(&terminal, options),
        Command::Version(options) if options.client => verbs::version::client(&terminal, options),
        command => with_server(&Session::open(&arguments.connection)?, command).await,
    }
}

async fn with_server(session: &Session, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Annotate(options) => verbs::label::annotate(session, options).await,
        Command::ApiResources(options) => verbs::api_resources::run(&session.terminal, options),
        Command::ApiVersions => verbs::api_resources::versions(&session.terminal),
        Command::Apply(options) => apply::run(session, options).await,
        Command::Attach(options) => verbs::attach::run(session, options).await,
        Command::Auth { verb } => verbs::auth::run(session, verb).await,
        Command::ClusterInfo => verbs::version::cluster_info(session).await,
        Command::Completion(options) => verbs::completion::run(&session.terminal, options),
        Command::Config { .. } => anyhow::bail!("config is about a file, not a server"),
        Command::Cordon(options) => verbs::cordon::run(session, options, true).await,
        Command::Cp(options) => verbs::cp::run(session, options).await,
        Command::Create(options) => verbs::create::run(session, options).await,
        Command::Debug(options) => verbs::debug::run(session, options).await,
        Command::Delete(options) => verbs::delete::run(session, options).await,
        Command::Describe(options) => verbs::describe::run(session, options).await,
        Command::Diff(options) => verbs::diff::run(session, options).await,
        Command::Drain(options) => verbs::drain::run(session, options).await,
        Command::Edit(options) => verbs::edit::run(session, options).await,
        Command::Events(options) => verbs::events::run(session, options).await,
        Command::Exec(options) => verbs::exec::run(session, options).await,
        Command::Explain(options) => verbs::explain::run(&session.terminal, options),
        Command::Expose(options) => verbs::expose::run(session, options).await,
        Command::Get(options) => verbs::get::run(session, options).await,
        Command::Label(options) => verbs::label::label(session, options).await,
        Command::Logs(options) => verbs::logs::run(session, options).await,
        Command::Net(options) => verbs::net::run(session, options).await,
        Command::Patch(options) => verbs::patch::run(session, options).await,
        Command::PortForward(options) => verbs::port_forward::run(session, options).await,
        Command::Replace(options) => verbs::replace::run(session, options).await,
        Command::Rollout { verb } => verbs::rollout::run(session, verb).await,
        Command::Run(options) => verbs::run::run(session, options).await,
        Command::Scale(options) => verbs::scale::run(session, options).await,
        Command::Taint(options) => verbs::taint::run(session, options).await,
        Command::Top { verb } => verbs::top::run(session, verb).await,
        Command::Uncordon(options) => verbs::cordon::run(session, options, false).await,
        Command::Version(options) => verbs::version::run(session, options).await,
        Command::Wait(options) => verbs::wait::run(session, options).await,
    }
}
