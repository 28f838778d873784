//! A file a verb.

pub(crate) mod api_resources;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod get;
pub(crate) mod logs;
pub(crate) mod net;
pub(crate) mod rollout;
pub(crate) mod scale;
