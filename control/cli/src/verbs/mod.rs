//! A file a verb: what it takes and what it does.

pub(crate) mod api_resources;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod cordon;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod drain;
pub(crate) mod edit;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod expose;
pub(crate) mod get;
pub(crate) mod label;
pub(crate) mod logs;
pub(crate) mod net;
pub(crate) mod patch;
pub(crate) mod replace;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod taint;
pub(crate) mod unserved;
pub(crate) mod version;
pub(crate) mod wait;
