//! The API's messages as data: the names, types and comments of their fields, for people who ask what there is.

use std::error::Error;
use std::fmt::Write;

use heck::ToShoutySnakeCase;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::{kinds, names};

pub(crate) fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    let mut of_kinds = Vec::new();
    for message in names::api_messages(pool) {
        let constant = constant(&message);
        let file = message.parent_file();
        let comment = comment(file.file_descriptor_proto(), message.path());
        let fields: Vec<String> = message.fields().map(|field| self::field(pool, &field)).collect();
        writeln!(
            out,
            "static {constant}: Message = Message {{ package: {:?}, name: {:?}, comment: {comment:?}, fields: &[{}] }};",
            message.package_name(),
            message.name(),
            fields.join(", "),
        )?;
        if kinds::declared(pool, &message)?.is_some() {
            of_kinds.push(format!("({:?}, &{constant})", rust_name(&message)));
        }
    }
    writeln!(out, "pub(super) static OF_KINDS: &[(&str, &Message)] = &[{}];", of_kinds.join(", "))?;
    Ok(out)
}

fn field(pool: &DescriptorPool, field: &FieldDescriptor) -> String {
    let file = field.parent_message().parent_file();
    let comment = comment(file.file_descriptor_proto(), field.path());
    let (shape, kind) = match field.kind() {
        Kind::Message(entry) if field.is_map() => ("Map", entry.map_entry_value_field().kind()),
        kind if field.is_list() => ("List", kind),
        kind => ("One", kind),
    };
    let holds = match &kind {
        Kind::Message(message) if names::api_messages(pool).any(|known| known == *message) => {
            format!("Holds::Message(&{})", constant(message))
        }
        Kind::Message(message) => format!("Holds::Scalar({:?})", message.name()),
        Kind::String => "Holds::Scalar(\"string\")".to_owned(),
        Kind::Bool => "Holds::Scalar(\"boolean\")".to_owned(),
        Kind::Bytes => "Holds::Scalar(\"base64\")".to_owned(),
        _ => "Holds::Scalar(\"integer\")".to_owned(),
    };
    format!(
        "Field {{ name: {:?}, comment: {comment:?}, shape: Shape::{shape}, holds: {holds} }}",
        field.json_name()
    )
}

fn constant(message: &MessageDescriptor) -> String {
    message.full_name().to_shouty_snake_case()
}

/// How `(weir.kind)` and this table find each other: "core.v1.Pod" is known by its path in the crate.
fn rust_name(message: &MessageDescriptor) -> String {
    message.full_name().trim_start_matches("k8s.").to_owned()
}

/// What stands above a declaration, its lines joined into paragraphs.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let comment =
        locations.filter(|location| location.path == path).find_map(|one| one.leading_comments.clone());
    let lines: Vec<_> = comment.iter().flat_map(|text| text.lines()).map(str::trim).collect();
    lines.join(" ").trim().to_owned()
}
