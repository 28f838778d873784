//! Manifests: from files, directories, URLs and standard input to objects, every error with its file, document and line.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;
use weir_proto::yaml::{self, Document};
use weir_proto::{Kind, Object, schema};

use crate::arguments::{Files, Validate};
use crate::fetch;
use crate::session::warn;

/// An object and where it was written.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) kind: &'static Kind,
    pub(crate) object: Box<dyn Object>,
    /// `deploy.yaml, document 2, line 17`
    place: String,
}

impl Manifest {
    pub(crate) fn place(&self) -> String {
        self.place.clone()
    }
}

/// All that the flags name, in the order given; a directory's files in the order of their names.
pub(crate) fn read(files: &Files, validate: Validate) -> Result<Vec<Manifest>> {
    if files.kustomize.is_some() {
        bail!("-k: kustomizations are not supported; build them first and give the result to -f");
    }
    if files.filenames.is_empty() {
        bail!("which manifests? give -f FILE, -f DIRECTORY or -f -");
    }
    let mut manifests = Vec::new();
    for name in &files.filenames {
        if name == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("read standard input")?;
            manifests.extend(parse("standard input", &bytes, validate)?);
        } else if fetch::is_url(name) {
            manifests.extend(parse(name, &fetch::get(name)?, validate)?);
        } else {
            for path in paths(Path::new(name), files.recursive)? {
                let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                manifests.extend(parse(&path.display().to_string(), &bytes, validate)?);
            }
        }
    }
    if manifests.is_empty() {
        bail!("no objects in {}", files.filenames.join(", "));
    }
    Ok(manifests)
}

fn paths(path: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    if !path.exists() {
        bail!("the path {:?} does not exist", path.display().to_string());
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("read the directory {}", path.display()))?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let is_manifest =
            entry.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|one| ending == *one));
        if entry.is_dir() && recursive {
            found.extend(paths(&entry, true)?);
        } else if entry.is_file() && is_manifest {
            found.push(entry);
        }
    }
    Ok(found)
}

pub(crate) fn parse(source: &str, bytes: &[u8], validate: Validate) -> Result<Vec<Manifest>> {
    let text = std::str::from_utf8(bytes).with_context(|| format!("{source} is not UTF-8"))?;
    let documents = yaml::documents(text).with_context(|| source.to_owned())?;
    let several = documents.len() > 1;
    let mut manifests = Vec::new();
    for (number, document) in documents.into_iter().enumerate() {
        let place = if several { format!("{source}, document {}", number + 1) } else { source.to_owned() };
        // A `List` stands for its items.
        for document in document.expand() {
            manifests.push(object(&document, &place, validate)?);
        }
    }
    Ok(manifests)
}

fn object(document: &Document, source: &str, validate: Validate) -> Result<Manifest> {
    let at = |path: &str| format!("{source}, line {}", document.line_of(path));
    let kind = kind_of(&document.value).with_context(|| at("kind"))?;
    let mut unknown = Vec::new();
    let object = match kind.from_json(&document.value, &mut unknown) {
        Ok(object) => object,
        Err(error) => {
            let place = at(&error.path);
            return Err(Error::new(error).context(place));
        }
    };
    for path in &unknown {
        let text = format!("{} has no field {path}{}", kind.kind, suggestion(kind, path));
        match validate {
            Validate::Strict => bail!("{}: {text} (--validate=warn goes on without it)", at(path)),
            Validate::Warn => warn(&format!("{}: {text}: ignored", at(path))),
            Validate::Ignore => {}
        }
    }
    if object.meta().name.is_empty() && object.meta().generate_name.is_empty() {
        bail!("{}: metadata.name is missing", at("metadata"));
    }
    Ok(Manifest { kind, object, place: at("") })
}

/// "; did you mean nodeName?"
fn suggestion(kind: &Kind, path: &str) -> String {
    let word = path.rsplit('.').next().unwrap_or(path);
    let holder = schema::of(kind).and_then(|message| message.holder(path));
    let nearest = holder.and_then(|message| message.nearest(word));
    nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// The kind that a document says it is.
fn kind_of(value: &Value) -> Result<&'static Kind> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(name) = text("kind") else { bail!("kind is missing") };
    let Some(api_version) = text("apiVersion") else { bail!("apiVersion is missing") };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(kind) = weir_proto::find(group, version, name) {
        return Ok(kind);
    }
    let same_name = weir_proto::kinds().iter().find(|kind| kind.kind == name);
    match (same_name, weir_proto::resolve(name)) {
        (Some(kind), _) => bail!("no kind {name} in {api_version}; it is in {}", kind.api_version()),
        (None, Err(weir_proto::UnknownKind { nearest: Some(nearest), .. })) => {
            let nearest = weir_proto::resolve(nearest)?.kind;
            bail!("no kind {name} in {api_version}; did you mean {nearest}?")
        }
        (None, Ok(kind)) => bail!("no kind {name} in {api_version}; did you mean {}?", kind.kind),
        (None, Err(_)) => {
            bail!("no kind {name} in {api_version}; `weir api-resources` lists those there are")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match parse("file.yaml", text.as_bytes(), Validate::Strict) {
            Ok(manifests) => format!("accepted {manifests:?}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let table = [
            ("apiVersion: v1\nkind: Pod\n", "metadata.name"),
            ("kind: Pod\nmetadata: {name: x}\n", "apiVersion is missing"),
            ("apiVersion: v1\nkind: Pood\nmetadata: {name: x}\n", "did you mean Pod?"),
            ("apiVersion: v1\nkind: Deployment\nmetadata: {name: x}\n", "it is in apps/v1"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {nodename: y}\n",
                "spec.nodename; did you mean nodeName?",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n---\napiVersion: v1\nkind: 7\n",
                "document 2, line",
            ),
            ("a: [", "line"),
            ("just words", "kind is missing"),
        ];
        for (text, want) in table {
            let refusal = refusal(text);
            assert!(refusal.contains(want) && refusal.contains("file.yaml"), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn a_list_stands_for_its_items() -> Result<()> {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
                    - {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n";
        let manifests = parse("list.yaml", text.as_bytes(), Validate::Strict)?;
        let names: Vec<&str> =
            manifests.iter().map(|manifest| manifest.object.meta().name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        Ok(())
    }
}
