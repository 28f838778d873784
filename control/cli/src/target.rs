//! `pod web-1`, `pods,services`, `deployment/echo`: which objects a user means.

use anyhow::{Result, anyhow, bail};
use weir_proto::Kind;

/// One kind, and which of its objects.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// None: all of them.
    pub(crate) name: Option<String>,
}

/// Reads the words after a verb.
pub(crate) fn parse(words: &[String]) -> Result<Vec<Target>> {
    if words.iter().any(|word| word.contains('/')) {
        return words.iter().map(|word| one(word)).collect();
    }
    let Some((types, names)) = words.split_first() else {
        bail!("which objects? give a type, and perhaps a name")
    };
    let mut kinds = Vec::new();
    for word in types.split(',') {
        kinds.extend(of_word(word)?);
    }
    if names.is_empty() {
        return Ok(kinds.into_iter().map(|kind| Target { kind, name: None }).collect());
    }
    let target = |kind, name: &String| Target { kind, name: Some(name.clone()) };
    Ok(kinds.iter().flat_map(|kind| names.iter().map(|name| target(kind, name))).collect())
}

/// As `parse`, where objects without a name make no sense.
pub(crate) fn parse_named(words: &[String]) -> Result<Vec<(&'static Kind, String)>> {
    let named = |target: Target| match target.name {
        Some(name) => Ok((target.kind, name)),
        None => bail!("which of the {}? give a name", target.kind.plural),
    };
    parse(words)?.into_iter().map(named).collect()
}

/// Names of objects of a kind that goes without saying: `n1 n2`, or `node/n1`, or `nodes n1`.
pub(crate) fn parse_of(kind: &'static Kind, words: &[String]) -> Result<Vec<String>> {
    let names = |target: &Target| match &target.name {
        Some(name) if target.kind == kind => Ok(name.clone()),
        _ => bail!(
            "{}: want a {}",
            display(target.kind, target.name.as_deref().unwrap_or_default()),
            kind.kind
        ),
    };
    if words.iter().any(|word| word.contains('/')) {
        return parse(words)?.iter().map(names).collect();
    }
    match words {
        [first, rest @ ..]
            if !rest.is_empty() && weir_proto::resolve(first).is_ok_and(|named| named == kind) =>
        {
            Ok(rest.to_vec())
        }
        words => Ok(words.to_vec()),
    }
}

fn one(word: &str) -> Result<Target> {
    let Some((kind, name)) = word.split_once('/') else {
        bail!("{word}: mix of TYPE/NAME and TYPE NAME; use one of them");
    };
    if kind.is_empty() || name.is_empty() || name.contains('/') {
        bail!("{word}: want TYPE/NAME");
    }
    Ok(Target { kind: resolve(kind)?, name: Some(name.to_owned()) })
}

/// A type's name, or a category's.
fn of_word(word: &str) -> Result<Vec<&'static Kind>> {
    let of_category: Vec<_> =
        weir_proto::kinds().iter().copied().filter(|kind| kind.categories.contains(&word)).collect();
    if of_category.is_empty() { Ok(vec![resolve(word)?]) } else { Ok(of_category) }
}

fn resolve(word: &str) -> Result<&'static Kind> {
    weir_proto::resolve(word).map_err(|unknown| {
        let nearest = unknown.nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
        anyhow!("the server doesn't have a resource type {:?}{nearest}", unknown.word)
    })
}

/// `pod/web-1`, `deployment.apps/echo`.
pub(crate) fn display(kind: &Kind, name: &str) -> String {
    if kind.group.is_empty() {
        format!("{}/{name}", kind.singular)
    } else {
        format!("{}.{}/{name}", kind.singular, kind.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> Result<Vec<String>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let show = |target: Target| display(target.kind, target.name.as_deref().unwrap_or("*"));
        Ok(parse(&words)?.into_iter().map(show).collect())
    }

    #[test]
    fn words_name_the_objects_that_kubectl_would_take_them_for() -> Result<()> {
        assert_eq!(shown(&["po"])?, ["pod/*"]);
        assert_eq!(shown(&["pods,svc"])?, ["pod/*", "service/*"]);
        assert_eq!(shown(&["deploy", "a", "b"])?, ["deployment.apps/a", "deployment.apps/b"]);
        assert_eq!(shown(&["deployment.apps/a", "pod/b"])?, ["deployment.apps/a", "pod/b"]);
        Ok(())
    }

    #[test]
    fn words_that_name_nothing_are_refused_with_the_nearest_name() {
        let error = shown(&["deploymnet"]).map(drop).map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|error| error.contains("deployment")), "{error:?}");
        assert!(shown(&["pod/a", "b"]).is_err());
        assert!(shown(&["pod/"]).is_err());
    }
}
