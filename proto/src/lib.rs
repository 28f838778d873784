//! The API model: every kind's type, its JSON and YAML, and the table of kinds.
//!
//! The `.proto` files are the one source of truth. The build (`build/main.rs`) compiles them into
//! - the types (prost; protobuf is what the store and gRPC carry), with maps as `BTreeMap`,
//! - their JSON in Kubernetes' shape ([`json`]),
//! - the [`Kind`] of each message that declares `(weir.kind)`, from which storage keys, REST paths, discovery,
//!   table output and the command line's names follow,
//! - what fields there are, with their comments ([`schema`]),
//! - clients and servers of the gRPC services in [`weir::v1`].
//!
//! # Adding a kind
//!
//! 1. Write its message under `k8s/GROUP/VERSION/` (or `net/`), with `option (weir.kind)` and a field
//!    `k8s.meta.v1.ObjectMeta metadata = 1`. Numbers are never reused. A scalar that is a pointer in Kubernetes is
//!    `optional`; structs that Go embeds are flattened into their owner; `json_name` is set where camel case
//!    differs (`clusterIP`); `(weir.always)` marks lists and scalars that Kubernetes writes even when empty.
//! 2. For a new package, include it below.
//! 3. Give its columns their cells in [`table`], and put an object that uses every field into `testdata/`.
//!
//! Left out on purpose: defaulting and validation, which are the API server's.

pub mod fields;
pub mod json;
pub mod labels;
pub mod schema;
pub mod status;
pub mod table;
pub mod yaml;

mod ephemeral;
mod kind;
mod object;
mod scalar;

pub use json::JsonError;
pub use kind::{Column, Kind, UnknownKind, find, find_plural, kinds, resolve};
pub use object::{Object, Resource};
pub use scalar::{Format, IntOrString, Quantity, ScalarError};
pub use status::ApiError;

pub use k8s::{apps, authentication, autoscaling, coordination, core, discovery, meta, policy, scheduling};

/// Kubernetes' own groups, laid out as their packages are.
pub mod k8s {
    pub mod meta {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.meta.v1.rs"));
        }
    }
    pub mod core {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.core.v1.rs"));
        }
    }
    pub mod apps {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.apps.v1.rs"));
        }
    }
    pub mod authentication {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.authentication.v1.rs"));
        }
    }
    pub mod autoscaling {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.autoscaling.v1.rs"));
        }
    }
    pub mod coordination {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.coordination.v1.rs"));
        }
    }
    pub mod discovery {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.discovery.v1.rs"));
        }
    }
    pub mod policy {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.policy.v1.rs"));
        }
    }
    pub mod scheduling {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/k8s.scheduling.v1.rs"));
        }
    }
}

/// Kinds about the dataplane, in the group `net.weir.dev`.
pub mod net {
    pub mod v1alpha1 {
        include!(concat!(env!("OUT_DIR"), "/net.v1alpha1.rs"));
    }
}

/// Weir's gRPC services.
#[expect(unused_qualifications, clippy::allow_attributes, reason = "generated code")]
pub mod weir {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/weir.v1.rs"));
    }
}
