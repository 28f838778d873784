//! What a path means.

use weir_proto::status::ApiError;
use weir_proto::{Kind, find_plural};

use crate::tokens;

/// Objects of a kind: all, those of a namespace, one, or a subresource of one.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) kind: &'static Kind,
    /// Empty: all, or none where the kind has none.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    /// `/`
    Root,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Version {
        group: String,
        version: String,
    },
    /// `/openapi/v3`
    OpenApi,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApiVersion {
        group: String,
        version: String,
    },
    Resource(Resource),
}

/// No path of the API has more parts.
const MOST_PARTS: usize = 10;

pub(super) fn parse(path: &str) -> Result<Place, ApiError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() > MOST_PARTS || path.contains('%') {
        return Err(ApiError::no_such_path());
    }
    let owned = |text: &str| text.to_owned();
    match &parts[..] {
        [] => Ok(Place::Root),
        ["api"] => Ok(Place::CoreVersions),
        ["apis"] => Ok(Place::Groups),
        ["apis", group] => Ok(Place::Group(owned(group))),
        ["api", version] => Ok(Place::Version { group: String::new(), version: owned(version) }),
        ["apis", group, version] => Ok(Place::Version { group: owned(group), version: owned(version) }),
        ["openapi", "v3"] => Ok(Place::OpenApi),
        ["openapi", "v3", "api", version] => {
            Ok(Place::OpenApiVersion { group: String::new(), version: owned(version) })
        }
        ["openapi", "v3", "apis", group, version] => {
            Ok(Place::OpenApiVersion { group: owned(group), version: owned(version) })
        }
        ["api", version, rest @ ..] => resource("", version, rest).map(Place::Resource),
        ["apis", group, version, rest @ ..] => resource(group, version, rest).map(Place::Resource),
        _ => Err(ApiError::no_such_path()),
    }
}

fn resource(group: &str, version: &str, parts: &[&str]) -> Result<Resource, ApiError> {
    if let [plural] = *parts
        && let Some(kind) = tokens::by_plural(group, version, plural)
    {
        return Ok(Resource {
            kind,
            namespace: String::new(),
            name: String::new(),
            subresource: String::new(),
        });
    }
    let of = |plural: &str, namespace: &str, name: &str, subresource: &str| {
        let kind = find_plural(group, version, plural).ok_or_else(ApiError::no_such_path)?;
        if !namespace.is_empty() && !kind.namespaced
            || !name.is_empty() && namespace.is_empty() && kind.namespaced
        {
            return Err(ApiError::no_such_path());
        }
        if !subresource.is_empty() && !kind.has_subresource(subresource) {
            return Err(ApiError::no_such_path());
        }
        Ok(Resource {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    };
    match *parts {
        // A namespace is an object too, with subresources of its own.
        ["namespaces", name, subresource @ ("status" | "finalize")] if group.is_empty() => {
            of("namespaces", "", name, subresource)
        }
        ["namespaces", namespace, plural] => of(plural, namespace, "", ""),
        ["namespaces", namespace, plural, name] => of(plural, namespace, name, ""),
        ["namespaces", namespace, plural, name, subresource] => of(plural, namespace, name, subresource),
        [plural] => of(plural, "", "", ""),
        [plural, name] => of(plural, "", name, ""),
        [plural, name, subresource] => of(plural, "", name, subresource),
        _ => Err(ApiError::no_such_path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> (String, String, String, String) {
        match parse(path).unwrap() {
            Place::Resource(r) => (r.kind.plural.to_owned(), r.namespace, r.name, r.subresource),
            other => panic!("{other:?}"),
        }
    }

    fn expected(
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> (String, String, String, String) {
        (plural.to_owned(), namespace.to_owned(), name.to_owned(), subresource.to_owned())
    }

    #[test]
    fn paths_name_what_kubernetes_means_by_them() {
        assert_eq!(parts("/api/v1/pods"), expected("pods", "", "", ""));
        assert_eq!(parts("/api/v1/namespaces/a/pods/"), expected("pods", "a", "", ""));
        assert_eq!(parts("/api/v1/namespaces/a/pods/p/log"), expected("pods", "a", "p", "log"));
        assert_eq!(parts("/api/v1/namespaces/a"), expected("namespaces", "", "a", ""));
        assert_eq!(parts("/api/v1/namespaces/a/finalize"), expected("namespaces", "", "a", "finalize"));
        assert_eq!(parts("/api/v1/nodes/n/status"), expected("nodes", "", "n", "status"));
        assert_eq!(
            parts("/apis/apps/v1/namespaces/a/deployments/d/scale"),
            expected("deployments", "a", "d", "scale")
        );
    }

    #[test]
    fn other_paths_are_not_there() {
        for path in [
            "/nothing",
            "/api/v1/zebras",
            "/api/v2/pods",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/nodes/n/scale",
            "/api/v1/namespaces/a/pods/p/log/more",
            "/apis/apps/v1/pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/1/2/3/4/5/6/7/8/9/10/11",
        ] {
            assert_eq!(parse(path).err().map(|error| error.code()), Some(404), "{path}");
        }
    }
}
