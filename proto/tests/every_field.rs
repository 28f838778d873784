//! Every field of every kind, through JSON and protobuf and back. The values come from the descriptors, so that a new
//! field is tested by being declared.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::strategy::Union;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};
use weir_proto::{Object, find, kinds};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut files = Vec::new();
    for folder in ["k8s", "net"] {
        collect(folder.as_ref(), &mut files);
    }
    let mut compiler = protox::Compiler::new(["."]).unwrap();
    compiler.include_imports(true).open_files(files).unwrap();
    compiler.descriptor_pool()
});

static ALWAYS: LazyLock<ExtensionDescriptor> =
    LazyLock::new(|| POOL.get_extension_by_name("weir.always").unwrap());

fn collect(folder: &std::path::Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, into) } else { into.push(path) }
    }
}

/// The API's kinds with their messages.
fn messages() -> Vec<(&'static weir_proto::Kind, MessageDescriptor)> {
    let of = |kind: &&'static weir_proto::Kind| {
        let message = POOL
            .all_messages()
            .find(|message| message.name() == kind.kind && message.get_field_by_name("metadata").is_some());
        (*kind, message.unwrap())
    };
    let bodies = [
        ("", "v1", "Binding"),
        ("autoscaling", "v1", "Scale"),
        ("policy", "v1", "Eviction"),
        ("authentication.k8s.io", "v1", "TokenRequest"),
        ("authentication.k8s.io", "v1", "TokenReview"),
        ("authentication.k8s.io", "v1", "SelfSubjectReview"),
    ];
    let bodies = bodies.map(|(group, version, kind)| find(group, version, kind).unwrap());
    kinds().iter().chain(&bodies).map(of).collect()
}

fn always(field: &FieldDescriptor) -> bool {
    field.options().get_extension(&ALWAYS).as_bool().unwrap_or_default()
}

/// JSON with every field set, to values that are neither empty nor zero.
fn full(message: &MessageDescriptor) -> Value {
    let field = |field: FieldDescriptor| (field.json_name().to_owned(), full_field(&field));
    let mut value = scalar(message).unwrap_or_else(|| Value::Object(message.fields().map(field).collect()));
    header(message, &mut value);
    value
}

/// The one message with a header that stands within another.
fn header(message: &MessageDescriptor, value: &mut Value) {
    if message.name() == "DeleteOptions" {
        value["apiVersion"] = json!("v1");
        value["kind"] = json!("DeleteOptions");
    }
}

fn full_field(field: &FieldDescriptor) -> Value {
    let one = |kind: &Kind| match kind {
        Kind::Message(message) => full(message),
        Kind::Bool => json!(true),
        Kind::Int32 => json!(i32::MAX),
        Kind::Int64 => json!(i64::MIN),
        Kind::Bytes => json!("AP8="),
        _ => json!("text"),
    };
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            json!({"key.example/x": one(&entry.map_entry_value_field().kind())})
        }
        kind if field.is_list() => json!([one(&kind), one(&kind)]),
        kind => one(&kind),
    }
}

fn scalar(message: &MessageDescriptor) -> Option<Value> {
    Some(match message.full_name() {
        "k8s.meta.v1.Time" => json!("2024-05-06T07:08:09Z"),
        "k8s.meta.v1.MicroTime" => json!("2024-05-06T07:08:09.000010Z"),
        "k8s.meta.v1.Quantity" => json!("1536Mi"),
        "k8s.meta.v1.IntOrString" => json!("25%"),
        "k8s.meta.v1.FieldsV1" | "k8s.meta.v1.RawExtension" => json!({"f:spec": {".": {}, "x": [1, null]}}),
        "k8s.authentication.v1.ExtraValue" => json!(["one", "two"]),
        _ => return None,
    })
}

/// JSON with some fields set.
fn some(message: MessageDescriptor) -> BoxedStrategy<Value> {
    if let Some(value) = scalar(&message) {
        let other = match message.full_name() {
            "k8s.meta.v1.IntOrString" => any::<i32>().prop_map(|number| json!(number)).boxed(),
            "k8s.meta.v1.Quantity" => (1_i64..1_000).prop_map(|milli| json!(format!("{milli}m"))).boxed(),
            _ => Just(value.clone()).boxed(),
        };
        return Union::new([Just(value).boxed(), other]).boxed();
    }
    let mut object = Just(Map::new()).boxed();
    for field in message.fields() {
        let required = always(&field);
        let name = field.json_name().to_owned();
        let value = (0..4_u8).prop_flat_map(move |dice| match dice {
            1.. if !required => Just(None).boxed(),
            _ => some_field(&field).prop_map(Some).boxed(),
        });
        object = (object, value)
            .prop_map(move |(mut object, value)| {
                object.extend(value.map(|value| (name.clone(), value)));
                object
            })
            .boxed();
    }
    let with_header = move |object| {
        let mut value = Value::Object(object);
        header(&message, &mut value);
        value
    };
    object.prop_map(with_header).boxed()
}

fn some_field(field: &FieldDescriptor) -> BoxedStrategy<Value> {
    // What is always written, or tells unset from zero, may be zero.
    let zero = (always(field) && !field.is_list() && !field.is_map()) || field.supports_presence();
    let one = |kind: &Kind| match kind {
        Kind::Message(message) => some(message.clone()),
        Kind::Bool if zero => any::<bool>().prop_map(Value::from).boxed(),
        Kind::Bool => Just(json!(true)).boxed(),
        Kind::Int32 => {
            any::<i32>().prop_filter("zero", move |n| zero || *n != 0).prop_map(Value::from).boxed()
        }
        Kind::Int64 => {
            any::<i64>().prop_filter("zero", move |n| zero || *n != 0).prop_map(Value::from).boxed()
        }
        Kind::Bytes => Just(json!("AP8=")).boxed(),
        _ if zero => "\\PC{0,8}".prop_map(Value::from).boxed(),
        _ => "\\PC{1,8}".prop_map(Value::from).boxed(),
    };
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            prop::collection::btree_map("\\PC{0,6}", one(&entry.map_entry_value_field().kind()), 1..3)
                .prop_map(|map| json!(map))
                .boxed()
        }
        kind if field.is_list() => {
            let least = usize::from(!always(field));
            prop::collection::vec(one(&kind), least..3).prop_map(Value::from).boxed()
        }
        kind => one(&kind),
    }
}

/// The object's JSON after JSON → message → protobuf → message → JSON.
fn around(kind: &'static weir_proto::Kind, value: &Value) -> Value {
    let mut unknown = Vec::new();
    let object = kind.from_json(value, &mut unknown).unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    let again: Box<dyn Object> = kind.decode(&object.encode()).unwrap();
    again.to_json()
}

fn with_header(kind: &weir_proto::Kind, mut value: Value) -> Value {
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
    value
}

#[test]
fn every_field_of_every_kind_survives() {
    for (kind, message) in messages() {
        let value = with_header(kind, full(&message));
        assert_eq!(around(kind, &value), value, "{kind}");
    }
}

#[test]
fn null_reads_as_unset_everywhere() {
    for (kind, message) in messages() {
        let nulls = message.fields().map(|field| (field.json_name().to_owned(), Value::Null)).collect();
        let empty = kind.empty().to_json();
        assert_eq!(around(kind, &Value::Object(nulls)), empty, "{kind}");
        for field in message.fields() {
            // One level down, where the lists and maps are.
            let Kind::Message(below) = field.kind() else { continue };
            if field.is_map() || scalar(&below).is_some() {
                continue;
            }
            let nulls: Map<_, _> =
                below.fields().map(|field| (field.json_name().to_owned(), Value::Null)).collect();
            let nulls = if field.is_list() { json!([nulls, null]) } else { json!(nulls) };
            let mut unknown = Vec::new();
            kind.from_json(&json!({field.json_name(): nulls}), &mut unknown).unwrap();
        }
    }
}

#[test]
fn a_value_of_the_wrong_type_names_its_field() {
    for (kind, message) in messages() {
        for field in message.fields() {
            // A list where one value should be, one value where a list or an object should be.
            let wrong = if field.is_list() || field.is_map() { json!(true) } else { json!([[]]) };
            let name = field.json_name();
            let error = kind.from_json(&json!({name: wrong}), &mut Vec::new()).unwrap_err();
            assert_eq!(error.path, name, "{kind}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_object_survives(
        (kind, value) in Union::new(messages().into_iter().map(|(kind, message)| {
            some(message).prop_map(move |value| (kind, with_header(kind, value))).boxed()
        }))
    ) {
        prop_assert_eq!(around(kind, &value), value);
    }
}
