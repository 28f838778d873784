//! `weir auth whoami`: who the API server takes one for.

use anyhow::Result;
use weir_proto::authentication::v1::{SelfSubjectReview, UserInfo};

use crate::output::{self, Format, Grid};
use crate::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Who one is, by the kubeconfig's identity or --token
    Whoami {
        /// json, yaml, jsonpath=…
        #[arg(long, short)]
        output: Option<String>,
    },
}

pub(crate) async fn run(session: &Session, verb: &Verb) -> Result<()> {
    let Verb::Whoami { output } = verb;
    let review = session.client.api::<SelfSubjectReview>().ask(&SelfSubjectReview::default()).await?;
    if let Some(format) = output.as_deref() {
        return output::print_objects(session, &[Box::new(review)], true, &Format::parse(format)?);
    }
    let user = review.status.unwrap_or_default().user_info.unwrap_or_default();
    session.print(table(&user))
}

fn table(user: &UserInfo) -> Grid {
    let mut grid = Grid::new(vec!["ATTRIBUTE".to_owned(), "VALUE".to_owned()]);
    let mut row = |name: String, value: String| {
        if !value.is_empty() {
            grid.push(vec![name, value]);
        }
    };
    let list = |values: &[String]| match values {
        [] => String::new(),
        values => format!("[{}]", values.join(" ")),
    };
    row("Username".to_owned(), user.username.clone());
    row("UID".to_owned(), user.uid.clone());
    row("Groups".to_owned(), list(&user.groups));
    for (key, values) in &user.extra {
        row(format!("Extra: {key}"), list(&values.items));
    }
    grid
}
