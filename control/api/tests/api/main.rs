//! The server as its clients meet it: over the embedded store, in the same process and over TLS.

mod bad_input;
mod deletion;
mod fixture;
mod lists;
mod nodes;
mod pods;
mod priority;
mod rest;
mod services;
mod tls;
mod verbs;
mod watches;
