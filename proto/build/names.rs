//! What prost calls things: the generated impls have to name its types and fields.

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

/// Written by hand in `src/scalar/`.
const HAND_WRITTEN: [&str; 7] = [
    "k8s.meta.v1.Time",
    "k8s.meta.v1.MicroTime",
    "k8s.meta.v1.Quantity",
    "k8s.meta.v1.IntOrString",
    "k8s.meta.v1.FieldsV1",
    "k8s.meta.v1.RawExtension",
    "k8s.authentication.v1.ExtraValue",
];

/// The messages that have a JSON form: all of the API's kinds and what they are made of.
pub(crate) fn api_messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> + '_ {
    pool.all_messages().filter(|message| {
        let package = message.package_name();
        (package.starts_with("k8s.") || package.starts_with("net."))
            && !message.is_map_entry()
            && !HAND_WRITTEN.contains(&message.full_name())
    })
}

pub(crate) fn rust_type(message: &MessageDescriptor) -> String {
    let package = message.package_name().replace('.', "::");
    format!("crate::{package}::{}", message.name().to_upper_camel_case())
}

pub(crate) fn rust_field(field: &FieldDescriptor) -> String {
    match field.name().to_snake_case() {
        keyword if matches!(keyword.as_str(), "type" | "continue") => format!("r#{keyword}"),
        name => name,
    }
}
