//! `-o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[*].image`.

use anyhow::{Context, Result, bail};
use weir_proto::Object;

use crate::output::Grid;
use weir_document::jsonpath::{Path, show};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Columns {
    columns: Vec<(String, Path)>,
}

impl Columns {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            bail!("custom-columns format specified but no custom columns given");
        }
        let column = |part: &str| match part.split_once(':') {
            Some((header, path)) if !header.is_empty() && !path.is_empty() => {
                Ok((header.to_owned(), Path::parse_relaxed(path)?))
            }
            _ => bail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"),
        };
        Ok(Self { columns: split(text).into_iter().map(column).collect::<Result<_>>()? })
    }

    /// A line of headers, and a line with a path under each.
    pub(crate) fn parse_file(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let mut line = |what| lines.next().with_context(|| format!("custom-columns-file: no line of {what}"));
        let headers: Vec<&str> = line("headers")?.split_whitespace().collect();
        let paths: Vec<&str> = line("paths")?.split_whitespace().collect();
        if headers.len() != paths.len() {
            bail!("custom-columns-file: {} headers but {} paths", headers.len(), paths.len());
        }
        let column = |(header, path): (&str, &str)| Ok((header.to_owned(), Path::parse_relaxed(path)?));
        Ok(Self { columns: headers.into_iter().zip(paths).map(column).collect::<Result<_>>()? })
    }

    pub(crate) fn grid(&self, objects: &[Box<dyn Object>], no_headers: bool) -> Grid {
        let headers = self.columns.iter().map(|(header, _)| header.clone()).collect();
        let mut grid = Grid::new(if no_headers { Vec::new() } else { headers });
        for object in objects {
            let value = object.to_json();
            let cell = |(_, path): &(String, Path)| {
                let found = path.find(&value).unwrap_or_default();
                let words: Vec<String> =
                    found.into_iter().filter(|found| !found.is_null()).map(show).collect();
                if words.is_empty() { "<none>".to_owned() } else { words.join(",") }
            };
            grid.push(self.columns.iter().map(cell).collect());
        }
        grid
    }
}

/// At commas, but for those between brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let at_comma = |character: char| {
        match character {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth <= 0
    };
    text.split(at_comma).collect()
}
