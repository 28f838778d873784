//! Config maps with what they hold; secrets with how much.

use weir_proto::core::v1::{ConfigMap, Secret};

use super::{labels, line};

pub(super) fn describe_config_map(out: &mut String, map: &ConfigMap) {
    let meta = map.meta();
    line!(out, "Name:\t{}\nNamespace:\t{}", meta.name, meta.namespace);
    labels(out, meta);
    line!(out, "\nData\n====");
    for (key, value) in &map.data {
        // A tab in a value is the value's, not a column's.
        line!(out, "{key}:\n----\n{}\n", value.trim_end().replace('\t', "    "));
    }
    line!(out, "\nBinaryData\n====");
    for (key, value) in &map.binary_data {
        line!(out, "{key}: {} bytes", value.len());
    }
    line!(out, "");
}

pub(super) fn describe_secret(out: &mut String, secret: &Secret) {
    let meta = secret.meta();
    line!(out, "Name:\t{}\nNamespace:\t{}", meta.name, meta.namespace);
    labels(out, meta);
    line!(out, "\nType:\t{}\n\nData\n====", secret.r#type);
    for (key, value) in &secret.data {
        line!(out, "{key}:\t{} bytes", value.len());
    }
    line!(out, "");
}
