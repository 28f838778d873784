//! The runtime as its users see it, on real kernels. Needs root; see [`weir_tests::require`].

mod agent;
mod attached;
mod containers;
mod fixture;
mod images;
mod life;
mod logs;
mod processes;
mod pure_v2;
mod registry;
mod security;
mod sessions;
mod volumes;
