//! The runtime as its users see it, on real kernels. Needs root; see [`fixture::is_root`].

mod containers;
mod fixture;
mod images;
mod life;
mod security;
