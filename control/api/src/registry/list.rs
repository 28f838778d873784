//! `list`: from the cache at one revision; further pages from the store at the revision of the first.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use weir_proto::status::ApiError;
use weir_proto::{Kind, fields, labels};
use weir_store::ListOptions;

use super::{Context, Registry, decode};
use crate::auth::{self, Access, Verb};
use crate::cache::{CachePage, CachedObject, Filter};
use crate::store_error;
use crate::validation::names;

/// Objects read from the store at once, when a page comes from there.
const CHUNK: usize = 500;

/// What to list. Selectors are in their text forms.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Empty: all.
    pub namespace: String,
    pub label_selector: String,
    pub field_selector: String,
    /// 0: all.
    pub limit: usize,
    pub continue_token: String,
    pub version: Version,
}

/// Which moment a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// All that was written before it was asked for.
    #[default]
    Newest,
    /// Whatever the cache has.
    Any,
    NotOlderThan(i64),
    Exactly(i64),
}

#[derive(Debug)]
pub struct ListPage {
    pub revision: i64,
    pub items: Vec<Arc<CachedObject>>,
    /// Empty on the last page.
    pub continue_token: String,
    /// How many follow, where that is known.
    pub remaining: Option<i64>,
}

/// Where a page ended.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    #[serde(rename = "rv")]
    revision: i64,
    after: String,
}

/// In place of a revision: of whatever moment it is.
const INCONSISTENT: i64 = -1;

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str, prefix: &str) -> Result<Self, ApiError> {
        let parsed: Option<Continue> =
            URL_SAFE_NO_PAD.decode(token).ok().and_then(|json| serde_json::from_slice(&json).ok());
        parsed
            .filter(|token| token.revision > 0 || token.revision == INCONSISTENT)
            .filter(|token| token.after.starts_with(prefix))
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// Refuses also what could match nothing, because no object can have such a label.
fn label_selector_of(text: &str) -> Result<labels::Selector, ApiError> {
    let selector = labels::Selector::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    for requirement in &selector.requirements {
        let key = (&requirement.key, names::qualified_name(&requirement.key));
        let values = requirement.values.iter().map(|value| (value, names::label_value(value)));
        for (shown, problems) in std::iter::once(key).chain(values) {
            if let Some(problem) = problems.first() {
                let shown: String = shown.chars().take(names::LONGEST_SHOWN).collect();
                let message = format!("unable to parse requirement: Invalid value: {shown:?}: {problem}");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    Ok(selector)
}

pub(super) fn filter(
    kind: &'static Kind,
    namespace: &str,
    label_selector: &str,
    field_selector: &str,
) -> Result<Filter, ApiError> {
    if !kind.namespaced && !namespace.is_empty() {
        return Err(ApiError::bad_request(format!("{} are not in a namespace", kind.plural)));
    }
    if namespace.contains('/') {
        return Err(ApiError::bad_request("names may not contain '/'"));
    }
    let labels = match label_selector.trim() {
        "" => None,
        text => Some(label_selector_of(text)?),
    };
    let fields = match field_selector.trim() {
        "" => None,
        text => {
            let selector =
                fields::Selector::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
            selector.check(kind).map_err(|error| ApiError::bad_request(error.to_string()))?;
            Some(selector)
        }
    };
    Ok(Filter { namespace: namespace.to_owned(), labels, fields })
}

impl Registry {
    pub(super) async fn authorize_filtered(
        &self,
        context: &Context,
        verb: Verb,
        kind: &'static Kind,
        filter: &Filter,
    ) -> Result<(), ApiError> {
        let access = Access {
            verb,
            kind,
            namespace: &filter.namespace,
            name: "",
            subresource: "",
            filter: Some(filter),
        };
        auth::authorize(&context.user, &access, self).await
    }

    /// `list`
    pub async fn list(
        &self,
        context: &Context,
        kind: &'static Kind,
        query: &ListQuery,
    ) -> Result<ListPage, ApiError> {
        let filter = filter(kind, &query.namespace, &query.label_selector, &query.field_selector)?;
        self.authorize_filtered(context, Verb::List, kind, &filter).await?;
        let cache = &self.entry(kind)?.cache;
        if !query.continue_token.is_empty() {
            let prefix = kind.prefix(Some(&filter.namespace));
            if query.version != Version::Newest {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Continue::decode(&query.continue_token, &prefix)?;
            let revision = (token.revision != INCONSISTENT).then_some(token.revision);
            if let Some(page) =
                revision.and_then(|at| cache.page(&filter, query.limit, Some(&token.after), Some(at)))
            {
                return Ok(answer(page));
            }
            let after = Some(token.after.clone());
            let page = self.page_of_store(kind, &filter, query.limit, revision, after).await;
            return page.map_err(|error| if error.is_gone() { too_old(token.after) } else { error });
        }
        match query.version {
            Version::Newest => self.first_page(kind, &filter, query.limit, false).await,
            Version::Any => {
                cache.ready().await?;
                self.first_page(kind, &filter, query.limit, true).await
            }
            Version::NotOlderThan(revision) => {
                cache.ready().await?;
                self.check_reached(kind, revision).await?;
                cache.reach(revision).await?;
                self.first_page(kind, &filter, query.limit, true).await
            }
            Version::Exactly(revision) => {
                self.check_reached(kind, revision).await?;
                self.page_of_store(kind, &filter, query.limit, Some(revision), None).await
            }
        }
    }

    /// What has not happened yet cannot be shown, and cannot have been seen: the client met another store, and begins
    /// anew.
    pub(super) async fn check_reached(&self, kind: &'static Kind, revision: i64) -> Result<(), ApiError> {
        let cache = &self.entry(kind)?.cache;
        if cache.revision() < revision && cache.store_revision().await? < revision {
            return Err(ApiError::expired(format!("Too large resource version: {revision}")));
        }
        Ok(())
    }

    /// From the cache, if it is as new as the store or may be older; else from the store.
    pub(super) async fn first_page(
        &self,
        kind: &'static Kind,
        filter: &Filter,
        limit: usize,
        any_version: bool,
    ) -> Result<ListPage, ApiError> {
        let cache = &self.entry(kind)?.cache;
        if (any_version || cache.fresh().await?)
            && let Some(page) = cache.page(filter, limit, None, None)
        {
            return Ok(answer(page));
        }
        self.page_of_store(kind, filter, limit, None, None).await
    }

    async fn page_of_store(
        &self,
        kind: &'static Kind,
        filter: &Filter,
        limit: usize,
        mut revision: Option<i64>,
        mut after: Option<String>,
    ) -> Result<ListPage, ApiError> {
        let prefix = kind.prefix(Some(&filter.namespace));
        let mut items: Vec<Arc<CachedObject>> = Vec::new();
        loop {
            let missing = if limit == 0 { CHUNK } else { limit - items.len() };
            // With a selector most of what is read may not match.
            let chunk = if filter.is_selective() { missing.max(CHUNK) } else { missing };
            let options = ListOptions { revision, limit: chunk, after: after.clone() };
            let page = self.inner.store.list(&prefix, options).await.map_err(store_error::during("list"))?;
            // Further chunks must show the same moment.
            revision = Some(page.revision);
            let last_read = page.items.len();
            for (index, kv) in page.items.iter().enumerate() {
                after = Some(kv.key.clone());
                let object = decode(kind, kv)?;
                if filter.matches(&object) {
                    items.push(Arc::new(object));
                }
                let behind =
                    u64::try_from(last_read - index - 1).unwrap_or(u64::MAX).saturating_add(page.remaining);
                if limit > 0 && items.len() == limit && behind > 0 {
                    let remaining =
                        (!filter.is_selective()).then(|| i64::try_from(behind).unwrap_or(i64::MAX));
                    let token = Continue { revision: page.revision, after: kv.key.clone() };
                    let (revision, continue_token) = (page.revision, token.encode());
                    return Ok(ListPage { revision, items, continue_token, remaining });
                }
            }
            if !page.more {
                let continue_token = String::new();
                return Ok(ListPage { revision: page.revision, items, continue_token, remaining: None });
            }
        }
    }
}

/// The moment of the first page is forgotten. The rest can be had as it is now, by the token in the answer.
fn too_old(after: String) -> ApiError {
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let token = Continue { revision: INCONSISTENT, after }.encode();
    error.0.metadata.get_or_insert_default().r#continue = token;
    error
}

fn answer(page: CachePage) -> ListPage {
    let token = page.after.map(|after| Continue { revision: page.revision, after }.encode());
    let remaining = token.as_ref().and(page.remaining).and_then(|count| i64::try_from(count).ok());
    let continue_token = token.unwrap_or_default();
    ListPage { revision: page.revision, items: page.items, continue_token, remaining }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_come_back_and_others_are_refused() {
        let token = Continue { revision: 7, after: "/registry/pods/a/b".to_owned() }.encode();
        assert_eq!(Continue::decode(&token, "/registry/pods/").unwrap().revision, 7);
        for bad in ["", "x", "eyJ9", &token] {
            assert!(Continue::decode(bad, "/registry/secrets/").is_err(), "{bad}");
        }
    }
}
