//! `weir config`: reads and changes the kubeconfig file. Changing it keeps what this program does not know, but not
//! comments.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::arguments::Connection;
use crate::output::Grid;
use crate::session::kubeconfig_path;
use crate::terminal::Terminal;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Print the file, without its secrets
    View {
        /// With its secrets
        #[arg(long)]
        raw: bool,
        /// Only what the current context uses
        #[arg(long)]
        minify: bool,
        /// yaml, json or jsonpath=…
        #[arg(long, short, default_value = "yaml")]
        output: String,
    },
    /// Print the name of the context in use
    CurrentContext,
    /// Use another context from now on
    #[command(visible_alias = "use")]
    UseContext { name: String },
    /// List the contexts
    GetContexts {
        names: Vec<String>,
        /// name
        #[arg(long, short, default_value = "", hide_default_value = true)]
        output: String,
        #[arg(long)]
        no_headers: bool,
    },
    /// List the clusters
    GetClusters,
    /// List the users
    GetUsers,
    /// Change a context, or make one: --current --namespace=NAME sets where objects are looked for
    SetContext {
        name: Option<String>,
        /// The context in use
        #[arg(long)]
        current: bool,
        #[arg(long)]
        cluster: Option<String>,
        #[arg(long)]
        user: Option<String>,
    },
    /// Remove a context
    DeleteContext { name: String },
    /// Give a context another name
    RenameContext { from: String, to: String },
}

pub(crate) fn run(terminal: &Terminal, connection: &Connection, verb: &Verb) -> Result<()> {
    let mut file = File::read(&kubeconfig_path(connection)?)?;
    let text = match verb {
        Verb::View { raw, minify, output } => file.view(*raw, *minify, output)?,
        Verb::CurrentContext => match file.current() {
            "" => bail!("current-context is not set"),
            current => format!("{current}\n"),
        },
        Verb::UseContext { name } => {
            file.context(name)?;
            file.value["current-context"] = json!(name);
            file.write()?;
            format!("Switched to context {name:?}.\n")
        }
        Verb::GetContexts { names, output, no_headers } => file.contexts(names, output, *no_headers)?,
        Verb::GetClusters => file.names("clusters"),
        Verb::GetUsers => file.names("users"),
        Verb::SetContext { name, current, cluster, user } => {
            let set = [
                ("namespace", connection.namespace.as_ref()),
                ("cluster", cluster.as_ref()),
                ("user", user.as_ref()),
            ];
            file.set_context(name.as_deref(), *current, &set)?
        }
        Verb::DeleteContext { name } => {
            file.context(name)?;
            file.entries_mut("contexts").retain(|entry| entry["name"] != json!(name));
            file.write()?;
            format!("deleted context {name} from {}\n", file.path.display())
        }
        Verb::RenameContext { from, to } => file.rename(from, to)?,
    };
    Ok(terminal.write(text.as_bytes())?)
}

struct File {
    path: PathBuf,
    value: Value,
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the kubeconfig {}", path.display()))?;
        let documents = weir_proto::yaml::documents(&text).with_context(|| path.display().to_string())?;
        let value = documents.into_iter().next().map(|document| document.value);
        match value {
            Some(value) if value.is_object() => Ok(Self { path: path.to_owned(), value }),
            Some(_) => bail!("{}: not a kubeconfig", path.display()),
            None => {
                Ok(Self { path: path.to_owned(), value: json!({ "apiVersion": "v1", "kind": "Config" }) })
            }
        }
    }

    /// In one step, so that nobody ever reads half a file; as private as it was.
    fn write(&self) -> Result<()> {
        let context = || format!("write the kubeconfig {}", self.path.display());
        let beside = self.path.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&beside, weir_proto::yaml::to_string(&self.value)).with_context(context)?;
        if let Ok(metadata) = std::fs::metadata(&self.path) {
            std::fs::set_permissions(&beside, metadata.permissions()).with_context(context)?;
        }
        std::fs::rename(&beside, &self.path).with_context(context)
    }

    fn current(&self) -> &str {
        self.value["current-context"].as_str().unwrap_or_default()
    }

    fn entries(&self, list: &str) -> &[Value] {
        self.value[list].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn entries_mut(&mut self, list: &str) -> &mut Vec<Value> {
        if !self.value[list].is_array() {
            self.value[list] = json!([]);
        }
        match &mut self.value[list] {
            Value::Array(entries) => entries,
            _ => unreachable!("it was just made a list"),
        }
    }

    fn names(&self, list: &str) -> String {
        let names: Vec<String> = self.entries(list).iter().map(|entry| text(&entry["name"]) + "\n").collect();
        format!("NAME\n{}", names.concat())
    }

    fn context(&self, name: &str) -> Result<&Value> {
        let found = self.entries("contexts").iter().find(|entry| entry["name"] == json!(name));
        let known: Vec<String> = self.entries("contexts").iter().map(|entry| text(&entry["name"])).collect();
        let found = found.map(|entry| &entry["context"]);
        found.with_context(|| {
            format!("no context exists with the name: {name:?}; there are: {}", known.join(", "))
        })
    }

    fn contexts(&self, names: &[String], output: &str, no_headers: bool) -> Result<String> {
        for name in names {
            self.context(name)?;
        }
        let wanted = |name: &String| names.is_empty() || names.contains(name);
        let entries = self.entries("contexts").iter().map(|entry| (text(&entry["name"]), &entry["context"]));
        let entries = entries.filter(|(name, _)| wanted(name));
        match output {
            "name" => return Ok(entries.map(|(name, _)| name + "\n").collect()),
            "" => {}
            other => bail!("-o {other}: no such format; use name"),
        }
        let header = ["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec();
        let mut grid = Grid::new(if no_headers { Vec::new() } else { header });
        for (name, context) in entries {
            let mark = if name == self.current() { "*" } else { "" };
            let fields = ["cluster", "user", "namespace"].map(|field| text(&context[field]));
            grid.push([mark.to_owned(), name].into_iter().chain(fields).collect());
        }
        Ok(grid.to_string())
    }

    fn set_context(
        &mut self,
        name: Option<&str>,
        current: bool,
        set: &[(&str, Option<&String>)],
    ) -> Result<String> {
        let name = match (name, current) {
            (Some(_), true) => bail!("a name does not go with --current"),
            (Some(name), false) => name.to_owned(),
            (None, true) if !self.current().is_empty() => self.current().to_owned(),
            (None, true) => bail!("no current context is set"),
            (None, false) => bail!("which context? give its name, or --current"),
        };
        let entries = self.entries_mut("contexts");
        let place = entries.iter().position(|entry| entry["name"] == json!(name));
        let done = if place.is_some() { "modified" } else { "created" };
        let place = place.unwrap_or_else(|| {
            entries.push(json!({ "name": name, "context": {} }));
            entries.len() - 1
        });
        for (field, value) in set {
            if let Some(value) = value {
                entries[place]["context"][*field] = json!(value);
            }
        }
        self.write()?;
        Ok(format!("Context {name:?} {done}.\n"))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<String> {
        self.context(from)?;
        if self.context(to).is_ok() {
            bail!("cannot rename the context {from:?}, the context {to:?} already exists");
        }
        let is_current = self.current() == from;
        for entry in self.entries_mut("contexts").iter_mut().filter(|entry| entry["name"] == json!(from)) {
            entry["name"] = json!(to);
        }
        if is_current {
            self.value["current-context"] = json!(to);
        }
        self.write()?;
        Ok(format!("Context {from:?} renamed to {to:?}.\n"))
    }

    fn view(&self, raw: bool, minify: bool, output: &str) -> Result<String> {
        let mut value = if minify { self.minified()? } else { self.value.clone() };
        if !raw {
            redact(&mut value);
        }
        let (format, argument) = output.split_once('=').unwrap_or((output, ""));
        Ok(match format {
            "yaml" => weir_proto::yaml::to_string(&value),
            "json" => serde_json::to_string_pretty(&value)? + "\n",
            "jsonpath" => weir_document::jsonpath::Template::parse(argument)?.render(&value)?,
            _ => bail!("-o {output}: no such format; use yaml, json or jsonpath=…"),
        })
    }

    fn minified(&self) -> Result<Value> {
        let context = self.context(self.current())?;
        let only = |list: &str, name: &Value| {
            let kept: Vec<Value> =
                self.entries(list).iter().filter(|entry| entry["name"] == *name).cloned().collect();
            Value::Array(kept)
        };
        let mut value = self.value.clone();
        value["clusters"] = only("clusters", &context["cluster"]);
        value["users"] = only("users", &context["user"]);
        value["contexts"] = only("contexts", &json!(self.current()));
        Ok(value)
    }
}

fn redact(value: &mut Value) {
    let secret = |fields: &mut Map<String, Value>| {
        for (field, value) in fields.iter_mut() {
            match field.as_str() {
                "certificate-authority-data" | "client-certificate-data" | "client-key-data" => {
                    *value = json!("DATA+OMITTED");
                }
                "token" | "password" => *value = json!("REDACTED"),
                _ => redact(value),
            }
        }
    };
    match value {
        Value::Object(fields) => secret(fields),
        Value::Array(list) => list.iter_mut().for_each(redact),
        _ => {}
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    const FILE: &str = "\
apiVersion: v1
kind: Config
current-context: main
contexts:
- {name: main, context: {cluster: c, user: u}}
- {name: other, context: {cluster: d, user: u, namespace: shop}}
clusters:
- {name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: Q0E=}}
- {name: d, cluster: {server: 'https://127.0.0.1:2'}}
users:
- {name: u, user: {token: secret, client-key-data: S0VZ}}
";

    fn weir(path: &Path, command: &str) -> String {
        let path = path.to_str().unwrap();
        let words = ["weir", "--kubeconfig", path, "config"].into_iter().chain(command.split(' '));
        let arguments = Arguments::parse_from(words);
        let Command::Config { verb } = &arguments.command else { panic!("not config") };
        let terminal = Terminal::captured();
        match run(&terminal, &arguments.connection, verb) {
            Ok(()) => terminal.text(),
            Err(error) => format!("error: {error:#}\n"),
        }
    }

    #[test]
    fn contexts_are_listed_used_and_changed_and_the_rest_of_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, FILE).unwrap();
        for (command, want) in [
            ("current-context", "main\n"),
            ("use-context other", "Switched to context \"other\".\n"),
            (
                "use-context mian",
                "error: no context exists with the name: \"mian\"; there are: main, other\n",
            ),
            ("set-context --current --namespace=front", "Context \"other\" modified.\n"),
            ("set-context new --cluster=c --user=u", "Context \"new\" created.\n"),
            ("rename-context new newer", "Context \"new\" renamed to \"newer\".\n"),
            ("get-contexts -o name", "main\nother\nnewer\n"),
            (
                "get-contexts main other",
                "CURRENT   NAME    CLUSTER   AUTHINFO   NAMESPACE\n          main    c         u\n*         other   d         u          front\n",
            ),
            ("get-clusters", "NAME\nc\nd\n"),
            ("get-users", "NAME\nu\n"),
            ("view -o jsonpath={.users[0].user.token}", "REDACTED"),
            ("view --raw -o jsonpath={.users[0].user.token}", "secret"),
            ("view --minify -o jsonpath={.clusters[*].cluster.server}", "https://127.0.0.1:2"),
        ] {
            assert_eq!(weir(&path, command), want, "{command}");
        }
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
