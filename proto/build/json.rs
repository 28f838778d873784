//! JSON impls for the API's messages, in Kubernetes' shape.
//!
//! Reading works on `serde_json::Value` and is not generic: it knows the path of each value, so that errors and
//! unknown fields can name it, and 200 messages compile once. Writing goes straight into any serde serializer.

use std::error::Error;
use std::fmt::Write;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::{kinds, names};

pub(crate) fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let always = pool.get_extension_by_name("weir.always").ok_or("weir/options.proto lacks `always`")?;
    let mut out = String::new();
    for message in names::api_messages(pool) {
        message_impls(&mut out, pool, &message, &always)?;
    }
    Ok(out)
}

fn message_impls(
    out: &mut String,
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    always: &ExtensionDescriptor,
) -> Result<(), Box<dyn Error>> {
    let rust = names::rust_type(message);
    let mut read = String::new();
    let mut write = String::new();
    if let Some(kind) = kinds::declared(pool, message)? {
        writeln!(read, "\"apiVersion\" | \"kind\" => {{}}")?;
        writeln!(write, "map.serialize_entry(\"apiVersion\", {:?})?;", kind.api_version())?;
        writeln!(write, "map.serialize_entry(\"kind\", {:?})?;", message.name())?;
    }
    for field in message.fields() {
        let always = field.options().get_extension(always).as_bool() == Some(true);
        check(&field, always)?;
        let (json, name) = (field.json_name().to_owned(), names::rust_field(&field));
        writeln!(read, "{json:?} => message.{name} = Read::read(value, at)?,")?;
        let how = if always { "always" } else { "unless_unset" };
        writeln!(write, "{how}(&mut map, {json:?}, &self.{name})?;")?;
    }
    write!(
        out,
        "impl Read for {rust} {{
            fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {{
                let mut message = Self::default();
                at.object(value, |at, key, value| {{
                    match key {{ {read} _ => return Ok(false), }}
                    Ok(true)
                }})?;
                Ok(message)
            }}
        }}
        impl Write for {rust} {{
            fn is_unset(&self) -> bool {{ false }}
            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{
                let mut map = serializer.serialize_map(None)?;
                {write}
                map.end()
            }}
        }}
        impl Serialize for {rust} {{
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{
                self.write(serializer)
            }}
        }}
        impl<'de> Deserialize<'de> for {rust} {{
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{
                deserialize(deserializer)
            }}
        }}\n"
    )?;
    Ok(())
}

/// Refuses what the JSON layer has no meaning for.
fn check(field: &FieldDescriptor, always: bool) -> Result<(), Box<dyn Error>> {
    let name = field.full_name();
    let single = !field.is_list() && !field.is_map();
    let kind = field.kind();
    if always && single && (matches!(kind, Kind::Message(_)) || field.supports_presence()) {
        return Err(format!("{name}: `always` makes sense only where unset and default are the same").into());
    }
    match kind {
        Kind::String | Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Bytes | Kind::Message(_) => Ok(()),
        other => Err(format!("{name}: {other:?} has no place in Kubernetes' JSON").into()),
    }
}
