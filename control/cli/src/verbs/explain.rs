//! `weir explain pod.spec.containers`: what fields there are, from the declarations that the API is built from.

use anyhow::{Result, bail};
use weir_proto::Kind;
use weir_proto::schema::{self, Field, Holds, Message};

use crate::terminal::Terminal;

/// Where descriptions wrap.
const WIDTH: usize = 80;
/// How deep `--recursive` goes.
const DEEPEST: usize = 12;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE or TYPE.FIELD.FIELD
    path: String,
    /// The fields of the fields too, without their descriptions
    #[arg(long)]
    recursive: bool,
}

pub(crate) fn run(terminal: &Terminal, options: &Options) -> Result<()> {
    Ok(terminal.write(text(&options.path, options.recursive)?.as_bytes())?)
}

fn text(path: &str, recursive: bool) -> Result<String> {
    let (word, fields) = path.split_once('.').unwrap_or((path, ""));
    let kind = weir_proto::resolve(word)?;
    let Some(message) = schema::of(kind) else { bail!("{}: nothing is known of its fields", kind.kind) };
    let steps: Vec<&str> = fields.split('.').filter(|step| !step.is_empty()).collect();
    let (last, holds) = follow(kind, message, &steps)?;

    let mut out = String::new();
    if !kind.group.is_empty() {
        out += &format!("GROUP:      {}\n", kind.group);
    }
    out += &format!("KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version);
    if let Some(field) = last {
        out += &format!("FIELD: {} <{}>\n\n", field.name, field.type_name());
    }
    let of_type = holds.map(|message| message.comment).unwrap_or_default();
    let of_field = last.map(|field| field.comment).unwrap_or_default();
    out += "DESCRIPTION:\n";
    let of_type = if of_field.contains(of_type) { "" } else { of_type };
    let said: Vec<&str> = [of_field, of_type].into_iter().filter(|text| !text.is_empty()).collect();
    out += &if said.is_empty() { "    <empty>\n".to_owned() } else { wrap(&said.join(" "), 4) };
    if let Some(message) = holds {
        out += "\nFIELDS:\n";
        if last.is_none() {
            out += &own_fields(kind, recursive);
        }
        list(message, recursive, 1, &mut out);
    }
    Ok(out)
}

/// The field that the steps lead to, and the message that it, or the kind itself, holds.
fn follow(
    kind: &Kind,
    message: &'static Message,
    steps: &[&str],
) -> Result<(Option<&'static Field>, Option<&'static Message>)> {
    let (mut last, mut holds) = (None, Some(message));
    let mut way = kind.singular.to_owned();
    for step in steps {
        let Some(message) = holds else { bail!("field {step:?} does not exist: {way} has no fields") };
        let Some(field) = message.field(step) else {
            let nearest =
                message.nearest(step).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
            bail!("field {step:?} does not exist in {way}{nearest}");
        };
        way = format!("{way}.{step}");
        last = Some(field);
        holds = match field.holds {
            Holds::Message(message) => Some(message),
            Holds::Scalar(_) => None,
        };
    }
    Ok((last, holds))
}

/// What every kind has in JSON and its message need not say.
fn own_fields(kind: &Kind, recursive: bool) -> String {
    let gap = if recursive { "" } else { "\n" };
    let (version, name) = (kind.api_version(), kind.kind);
    let line = |field: &str, value: &str| {
        let comment = if recursive { String::new() } else { wrap(&format!("Always {value}."), 4) };
        format!("  {field}\t<string>\n{comment}{gap}")
    };
    line("apiVersion", &version) + &line("kind", name)
}

fn list(message: &Message, recursive: bool, depth: usize, out: &mut String) {
    let mut fields: Vec<&Field> = message.fields.iter().collect();
    fields.sort_by_key(|field| field.name);
    for field in fields {
        out.push_str(&format!("{}{}\t<{}>\n", "  ".repeat(depth), field.name, field.type_name()));
        if !recursive {
            out.push_str(&wrap(field.comment, 4));
            out.push('\n');
        } else if let Holds::Message(next) = field.holds
            && depth < DEEPEST
        {
            list(next, true, depth + 1, out);
        }
    }
}

fn wrap(text: &str, margin: usize) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && margin + line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += &format!("{}{line}\n", " ".repeat(margin));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        out += &format!("{}{line}\n", " ".repeat(margin));
    }
    out
}
