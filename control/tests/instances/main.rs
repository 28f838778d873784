//! Control planes as processes: several over one etcd, and what keeps their store.

mod fixture;
mod high_availability;
mod store_commands;
