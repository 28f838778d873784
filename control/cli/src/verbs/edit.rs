//! `weir edit`: an object in an editor. What cannot be saved is offered for editing again, with the reason on top.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use weir_proto::{Object, yaml};

use crate::arguments::{Changing, Choosing, Files, Validate};
use crate::change::Changes;
use crate::manifest;
use crate::selection;
use crate::session::Session;
use crate::target::display;

const HEAD: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME … or TYPE/NAME …
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    changing: Changing,
    /// The editor [default: $KUBE_EDITOR, $EDITOR, vi]
    #[arg(long, env = "KUBE_EDITOR", hide_env_values = true)]
    editor: Option<String>,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let changes = Changes::new(session, &options.changing)?;
    let picks = selection::pick(session, &options.targets, Some(&options.files), &options.choosing).await?;
    for mut pick in picks {
        let object = pick.object(session).await?;
        one(session, options, &changes, object.as_ref()).await?;
    }
    Ok(())
}

async fn one(session: &Session, options: &Options, changes: &Changes<'_>, object: &dyn Object) -> Result<()> {
    let original = yaml::to_string(&object.to_json());
    let file = Draft::new(&display(object.kind(), &object.meta().name))?;
    let mut text = original.clone();
    let mut reasons = String::new();
    loop {
        file.write(&format!("{HEAD}{reasons}{text}"))?;
        launch(options.editor.as_deref(), &file.path)?;
        let edited = file.read()?;
        if edited.trim().is_empty() || edited == original {
            let what = if edited == original { "no changes made" } else { "saved file was empty" };
            session.note(format_args!("Edit cancelled, {what}."));
            return Ok(());
        }
        if edited == text && !reasons.is_empty() {
            let kept = file.keep()?;
            bail!(
                "Edit cancelled, no valid changes were saved. A copy of your changes has been stored to {}",
                kept.display()
            );
        }
        let Err(error) = save(changes, object, &edited).await else { return Ok(()) };
        let lines = format!("{error:#}");
        reasons = lines.lines().map(|line| format!("# {line}\n")).collect::<String>() + "#\n";
        text = edited;
    }
}

async fn save(changes: &Changes<'_>, object: &dyn Object, edited: &str) -> Result<()> {
    let manifests = manifest::parse("the edited object", edited.as_bytes(), Validate::Strict)?;
    let [manifest] = &manifests[..] else { bail!("want one object, got {}", manifests.len()) };
    let (before, after) = (object.meta(), manifest.object.meta());
    let same =
        manifest.kind == object.kind() && before.name == after.name && before.namespace == after.namespace;
    if !same {
        bail!("kind, name and namespace cannot be changed");
    }
    changes.update(manifest.object.clone(), "edited").await
}

fn launch(editor: Option<&str>, path: &Path) -> Result<()> {
    let of_environment = std::env::var("EDITOR").ok().filter(|editor| !editor.is_empty());
    let editor = editor.map(str::to_owned).or(of_environment).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().context("the editor's name is empty")?;
    let status = Command::new(program)
        .args(words)
        .arg(path)
        .status()
        .with_context(|| format!("there was a problem with the editor {editor:?}"))?;
    if status.success() { Ok(()) } else { bail!("there was a problem with the editor {editor:?}: {status}") }
}

/// The file that is edited: nobody else may read it, and it goes when it is done with.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(name: &str) -> Result<Self> {
        let name = name.replace('/', "-");
        for attempt in 0..100 {
            let path =
                std::env::temp_dir().join(format!("weir-edit-{}-{attempt}-{name}.yaml", std::process::id()));
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            match options.open(&path) {
                Ok(_) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
            }
        }
        bail!("no free name for a file in {}", std::env::temp_dir().display())
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut file =
            fs::File::create(&self.path).with_context(|| format!("write {}", self.path.display()))?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Without the comments at its head.
    fn read(&self) -> Result<String> {
        let text = fs::read_to_string(&self.path).with_context(|| format!("read {}", self.path.display()))?;
        let lines = text.lines().skip_while(|line| line.starts_with('#'));
        Ok(lines.map(|line| format!("{line}\n")).collect())
    }

    /// A copy that stays.
    fn keep(&self) -> Result<PathBuf> {
        let kept = self.path.with_extension("rejected.yaml");
        fs::copy(&self.path, &kept).with_context(|| format!("write {}", kept.display()))?;
        Ok(kept)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing to be done about a file that cannot be removed.
        fs::remove_file(&self.path).ok();
    }
}
