//! How errors look: what the server said, in kubectl's words, else what went wrong here.

use std::process::ExitCode;

use anyhow::Error;

pub(crate) fn report(error: &Error) -> ExitCode {
    let from_server = error.chain().find_map(|cause| cause.downcast_ref::<weir_client::Error>()?.api());
    match from_server {
        Some(status) => {
            let context = error.to_string();
            let message = status.to_string();
            let context = if context == message { String::new() } else { format!("{context}: ") };
            eprintln!("Error from server ({}): {context}{message}", status.reason());
        }
        None => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}
