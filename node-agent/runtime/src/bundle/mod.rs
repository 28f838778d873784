//! Turns a [`crate::ContainerSpec`] into an OCI bundle.

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("no command: neither the container nor image {image:?} gives one")]
    NoCommand { image: String },
}

impl BundleError {
    pub fn reason(&self) -> &'static str {
        "CreateContainerError"
    }
}
