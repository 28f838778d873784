//! The table of kinds, and for each kind its `Resource` impl and accessors, from the `(weir.kind)` options.

use std::error::Error;
use std::fmt::Write;

use heck::ToShoutySnakeCase;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::names;

/// A message's `(weir.kind)`.
pub(crate) struct Declared(DynamicMessage);

impl Declared {
    pub(crate) fn api_version(&self) -> String {
        match self.text("group") {
            group if group.is_empty() => self.text("version"),
            group => format!("{group}/{}", self.text("version")),
        }
    }

    fn text(&self, field: &str) -> String {
        self.0.get_field_by_name(field).and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
    }

    fn flag(&self, field: &str) -> bool {
        self.0.get_field_by_name(field).and_then(|value| value.as_bool()).unwrap_or_default()
    }

    fn list(&self, field: &str) -> Vec<Value> {
        self.0.get_field_by_name(field).and_then(|value| Some(value.as_list()?.to_vec())).unwrap_or_default()
    }

    fn texts(&self, field: &str) -> Vec<String> {
        self.list(field).iter().filter_map(|value| Some(value.as_str()?.to_owned())).collect()
    }

    fn columns(&self) -> String {
        let column = |value: &Value| {
            let column = Declared(value.as_message()?.clone());
            Some(format!("Column {{ name: {:?}, wide: {} }}", column.text("name"), column.flag("wide")))
        };
        self.list("columns").iter().filter_map(column).collect::<Vec<_>>().join(", ")
    }
}

pub(crate) fn declared(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
) -> Result<Option<Declared>, Box<dyn Error>> {
    let extension = pool.get_extension_by_name("weir.kind").ok_or("weir/options.proto lacks `kind`")?;
    let options = message.options();
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    Ok(options.get_extension(&extension).as_message().cloned().map(Declared))
}

pub(crate) fn generate(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    let (mut stored, mut bodies) = (Vec::new(), Vec::new());
    for message in names::api_messages(pool) {
        let Some(kind) = declared(pool, &message)? else { continue };
        // Status and DeleteOptions have a header in JSON but are no objects.
        if !message
            .get_field_by_name("metadata")
            .is_some_and(|field| is_message(&field, "k8s.meta.v1.ObjectMeta"))
        {
            continue;
        }
        let constant = message.name().to_shouty_snake_case();
        row(&mut out, &message, &kind, &constant)?;
        resource(&mut out, &message, &kind, &constant)?;
        for field in message.fields().filter(|field| matches!(field.name(), "spec" | "status")) {
            accessors(&mut out, &message, &field, field.name())?;
        }
        if kind.text("plural").is_empty() { &mut bodies } else { &mut stored }.push(format!("&{constant}"));
    }
    writeln!(out, "pub(crate) static STORED: &[&Kind] = &[{}];", stored.join(", "))?;
    writeln!(out, "pub(crate) static BODIES: &[&Kind] = &[{}];", bodies.join(", "))?;
    Ok(out)
}

fn row(
    out: &mut String,
    message: &MessageDescriptor,
    kind: &Declared,
    constant: &str,
) -> Result<(), Box<dyn Error>> {
    let rust = names::rust_type(message);
    let singular = match kind.text("singular") {
        empty if empty.is_empty() => message.name().to_lowercase(),
        given => given,
    };
    writeln!(
        out,
        "static {constant}: Kind = Kind {{ group: {:?}, version: {:?}, kind: {:?}, plural: {:?}, singular: {singular:?},
            short_names: &{:?}, namespaced: {}, subresources: &{:?}, categories: &{:?}, columns: &[{}],
            selectable_fields: &{:?}, codec: Codec::of::<{rust}>() }};",
        kind.text("group"),
        kind.text("version"),
        message.name(),
        kind.text("plural"),
        kind.texts("short_names"),
        !kind.flag("cluster_scoped"),
        kind.texts("subresources"),
        kind.texts("categories"),
        kind.columns(),
        kind.texts("selectable_fields"),
    )?;
    Ok(())
}

fn resource(
    out: &mut String,
    message: &MessageDescriptor,
    kind: &Declared,
    constant: &str,
) -> Result<(), Box<dyn Error>> {
    let rust = names::rust_type(message);
    let mut fields = String::new();
    for path in kind.texts("selectable_fields") {
        writeln!(fields, "{path:?} => {},", select(message, &path)?)?;
    }
    let metadata = message.get_field_by_name("metadata").ok_or("a kind without metadata")?;
    accessors(out, message, &metadata, "meta")?;
    writeln!(
        out,
        "impl Resource for {rust} {{
            const KIND: &'static Kind = &{constant};
            fn meta(&self) -> &ObjectMeta {{ Self::meta(self) }}
            fn meta_mut(&mut self) -> &mut ObjectMeta {{ Self::meta_mut(self) }}
            fn field(&self, path: &str) -> Option<Cow<'_, str>> {{
                Some(match path {{
                    \"metadata.name\" => Cow::Borrowed(self.meta().name.as_str()),
                    \"metadata.namespace\" => Cow::Borrowed(self.meta().namespace.as_str()),
                    {fields} _ => return None,
                }})
            }}
        }}"
    )?;
    Ok(())
}

/// `name()` and `name_mut()` for a message field: read as empty, or made, when absent.
fn accessors(
    out: &mut String,
    message: &MessageDescriptor,
    field: &FieldDescriptor,
    name: &str,
) -> Result<(), Box<dyn Error>> {
    let rust = names::rust_type(message);
    let Kind::Message(target) = field.kind() else { return Ok(()) };
    let (target, field) = (names::rust_type(&target), names::rust_field(field));
    writeln!(
        out,
        "impl {rust} {{
            /// Empty when absent.
            pub fn {name}(&self) -> &{target} {{
                static EMPTY: LazyLock<{target}> = LazyLock::new(Default::default);
                self.{field}.as_ref().unwrap_or_else(|| LazyLock::force(&EMPTY))
            }}
            /// Made when absent.
            pub fn {name}_mut(&mut self) -> &mut {target} {{
                self.{field}.get_or_insert_default()
            }}
        }}"
    )?;
    Ok(())
}

/// An expression for the text of the field at a JSON path, "" where something on the way is absent.
fn select(message: &MessageDescriptor, path: &str) -> Result<String, Box<dyn Error>> {
    let wrong = || format!("{}: no field {path} to select by", message.full_name());
    let mut at = message.clone();
    let mut expression = "Some(self)".to_owned();
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let field = at.get_field_by_json_name(step).ok_or_else(wrong)?;
        let name = names::rust_field(&field);
        match (steps.peek(), field.kind()) {
            (Some(_), Kind::Message(next)) => {
                write!(expression, ".and_then(|message| message.{name}.as_ref())")?;
                at = next;
            }
            (None, Kind::String) => {
                return Ok(format!(
                    "Cow::Borrowed({expression}.map_or(\"\", |message| message.{name}.as_str()))"
                ));
            }
            (None, Kind::Bool | Kind::Int32 | Kind::Int64) => {
                return Ok(format!(
                    "Cow::Owned({expression}.map(|message| message.{name}).unwrap_or_default().to_string())"
                ));
            }
            _ => return Err(wrong().into()),
        }
    }
    Err(wrong().into())
}

fn is_message(field: &FieldDescriptor, full_name: &str) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.full_name() == full_name)
}
