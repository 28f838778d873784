//! Control planes as processes: several over one etcd, their clocks, and what keeps their store.

mod clock;
mod fixture;
mod high_availability;
mod store_commands;
