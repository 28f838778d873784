//! Verbs that kubectl has and the API does not serve: said so, rather than unknown.

use anyhow::{Result, bail};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Whatever kubectl would take
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<String>,
}

pub(crate) fn run(verb: &str) -> Result<()> {
    match verb {
        "top" => bail!("Metrics API not available: the cluster does not measure its pods and nodes"),
        verb => {
            bail!("{verb} is not supported: the API serves logs, but no other stream to or from containers")
        }
    }
}
