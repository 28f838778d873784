//! `weir`: the command line, see [`weir_cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_cli::main()
}
