//! What config maps and secrets are filled with: literals, files, and files of environment variables.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

#[derive(Debug, clap::Args)]
pub(super) struct Sources {
    /// KEY=VALUE
    #[arg(long)]
    from_literal: Vec<String>,
    /// FILE, KEY=FILE, or a directory whose files become keys
    #[arg(long)]
    from_file: Vec<String>,
    /// A file of KEY=VALUE lines
    #[arg(long)]
    from_env_file: Vec<String>,
}

impl Sources {
    pub(super) fn read(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut data = Data::default();
        for literal in &self.from_literal {
            let (key, value) = literal
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .with_context(|| format!("invalid literal source {literal}, expected key=value"))?;
            data.insert(key, value.as_bytes().to_vec())?;
        }
        for source in &self.from_file {
            data.insert_files(source)?;
        }
        for file in &self.from_env_file {
            data.insert_environment(file)?;
        }
        Ok(data.entries)
    }
}

#[derive(Default)]
struct Data {
    entries: BTreeMap<String, Vec<u8>>,
}

impl Data {
    fn insert(&mut self, key: &str, value: Vec<u8>) -> Result<()> {
        let allowed = |one: char| one.is_ascii_alphanumeric() || "-_.".contains(one);
        if key.is_empty()
            || key.len() > 253
            || !key.chars().all(allowed)
            || key == "."
            || key.starts_with("..")
        {
            bail!("{key:?} is not a valid key name: letters, digits, '-', '_' and '.' are allowed");
        }
        if self.entries.insert(key.to_owned(), value).is_some() {
            bail!("cannot add key {key:?}, another key by that name already exists");
        }
        Ok(())
    }

    fn insert_files(&mut self, source: &str) -> Result<()> {
        let (key, path) = match source.split_once('=') {
            Some((key, path)) if !key.is_empty() && !path.is_empty() => (Some(key), Path::new(path)),
            Some(_) => bail!("--from-file {source}: want FILE or KEY=FILE"),
            None => (None, Path::new(source)),
        };
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        if !path.is_dir() {
            let key = key.map(str::to_owned).or_else(|| Some(path.file_name()?.to_str()?.to_owned()));
            return self.insert(&key.with_context(|| format!("--from-file {source}: no key"))?, read(path)?);
        }
        if key.is_some() {
            bail!("--from-file {source}: cannot give a key name for a directory path");
        }
        let entries =
            std::fs::read_dir(path).with_context(|| format!("read the directory {}", path.display()))?;
        for entry in entries {
            let path = entry?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file()) {
                self.insert(name, read(&path)?)?;
            }
        }
        Ok(())
    }

    fn insert_environment(&mut self, file: &str) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // A key alone is taken from the environment of this command.
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                None => (line, std::env::var(line).unwrap_or_default()),
            };
            self.insert(key.trim(), value.into_bytes())
                .with_context(|| format!("{file}, line {}", number + 1))?;
        }
        Ok(())
    }
}
