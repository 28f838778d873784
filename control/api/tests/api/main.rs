//! The server as its clients meet it: over the embedded store, in the same process and over TLS.

mod bad_input;
mod connections;
mod deletion;
mod dns_service;
// The store's own.
#[path = "../../../store/tests/contract/backend/etcd.rs"]
#[expect(dead_code, reason = "made for more than is tested here")]
mod etcd;
mod events;
mod fixture;
mod health;
mod limits;
mod lists;
mod metrics;
mod nodes;
mod own_service;
mod pods;
mod priority;
mod rest;
mod services;
mod tls;
mod tokens;
mod validation;
mod verbs;
mod watches;
