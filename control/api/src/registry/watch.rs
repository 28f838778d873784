//! `watch`: changes from the cache.

use weir_proto::Kind;
use weir_proto::status::ApiError;

use super::{Context, Registry, list};
use crate::auth::Verb;
use crate::cache::{From, Watcher};

/// What to watch. Selectors are in their text forms.
#[derive(Debug, Clone, Default)]
pub struct WatchQuery {
    /// Empty: all.
    pub namespace: String,
    pub label_selector: String,
    pub field_selector: String,
    /// Empty or "0": the present state first.
    pub resource_version: String,
    pub bookmarks: bool,
}

impl Registry {
    /// `watch`
    pub async fn watch(
        &self,
        context: &Context,
        kind: &'static Kind,
        query: &WatchQuery,
    ) -> Result<Watcher, ApiError> {
        let filter = list::filter(kind, &query.namespace, &query.label_selector, &query.field_selector)?;
        self.authorize_filtered(context, Verb::Watch, kind, &filter).await?;
        let cache = &self.entry(kind)?.cache;
        let from = match query.resource_version.as_str() {
            "" => {
                // What the cache has not heard of yet follows as changes.
                let _ = cache.fresh().await?;
                From::Present
            }
            "0" => {
                cache.ready().await?;
                From::Present
            }
            text => {
                let revision: i64 = text.parse().ok().filter(|revision| *revision > 0).ok_or_else(|| {
                    ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}: not a revision"))
                })?;
                self.check_reached(kind, revision).await?;
                cache.ready().await?;
                From::Revision(revision)
            }
        };
        cache.watch(filter, from, query.bookmarks)
    }
}
