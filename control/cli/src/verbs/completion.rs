//! `weir completion`: a script for the shell.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::arguments::Arguments;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(terminal: &Terminal, options: &Options) -> Result<()> {
    let mut script = Vec::new();
    generate(options.shell, &mut Arguments::command(), "weir", &mut script);
    Ok(terminal.write(&script)?)
}
