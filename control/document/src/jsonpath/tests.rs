use serde_json::{Value, json};

use super::*;

fn document() -> Value {
    json!({
        "kind": "List",
        "items": [
            {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}},
                "status": {"capacity": {"cpu": "4"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}]}},
            {"kind": "None", "metadata": {"name": "127.0.0.2"},
                "status": {"capacity": {"cpu": "8"}, "addresses": [
                    {"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}]}},
        ],
        "users": [
            {"name": "myself", "user": {}, "age": 20},
            {"name": "e2e", "user": {"username": "admin", "password": "secret"}, "age": 31.5},
        ],
    })
}

/// The examples of Kubernetes' documentation, and what its tests add.
#[test]
fn templates_print_what_kubectl_prints() {
    for (template, want) in [
        ("kind is {.kind}", "kind is List"),
        ("kind is {$.kind}", "kind is List"),
        ("kind is {@.kind}", "kind is List"),
        ("{['kind']}", "List"),
        ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"),
        ("{.items[*]['metadata.name', 'kind']}", "127.0.0.1 127.0.0.2 None None"),
        ("{.items[0].metadata.labels['kubernetes.io/hostname']}", "127.0.0.1"),
        ("{.items[*]['status'].capacity}", r#"{"cpu":"4"} {"cpu":"8"}"#),
        ("{..cpu}", "4 8"),
        ("{..metadata.name}", "127.0.0.1 127.0.0.2"),
        ("{.users[0].name}", "myself"),
        ("{.users[-1].name}", "e2e"),
        ("{.users[0:1].name}", "myself"),
        ("{.users[::2].name}", "myself"),
        ("{.users[0,1].name}", "myself e2e"),
        (r#"{.users[?(@.name=="e2e")].user.password}"#, "secret"),
        ("{.users[?(@.age > 20)].name}", "e2e"),
        ("{.users[?(@.age>=20)].name}", "myself e2e"),
        (r#"{.users[?(@.name != "e2e")].name}"#, "myself"),
        ("{.users[?(@.user.username)].name}", "e2e"),
        (
            r#"{range .items[*]}[{.metadata.name}, {.status.capacity.cpu}] {end}"#,
            "[127.0.0.1, 4] [127.0.0.2, 8] ",
        ),
        (
            r#"{range .items[*]}{range .status.addresses[*]}{.address}{"\t"}{end}{'\n'}{end}"#,
            "127.0.0.1\t\n127.0.0.2\t127.0.0.3\t\n",
        ),
        (r"{.items[0].metadata.labels.kubernetes\.io/hostname}", "127.0.0.1"),
        ("{.items[*].metadata.missing}", ""),
        ("{.nowhere.at.all}", ""),
        ("{.items[*].status['addresses'][0].type}", "LegacyHostIP LegacyHostIP"),
        ("no action", "no action"),
        ("{12}{.users[0].age}", "1220"),
    ] {
        let rendered = Template::parse(template).map(|parsed| parsed.render(&document()));
        assert_eq!(rendered, Ok(Ok(want.to_owned())), "{template}");
    }
}

#[test]
fn mistakes_are_refused_with_their_place() {
    for (template, problem) in [
        ("{.a", "expected }"),
        ("{kind}", "begin with a dot"),
        ("{range .items[*]}x", "a range without an end"),
        ("x{end}", "an end without a range"),
        ("{.a[?(@.b ~ 3)]}", "expected )"),
        ("{.a['b}", "does not end"),
        ("{.a[]}", "expected an index"),
        ("{.a[::0]}", "must be positive"),
        ("{.a..}", "expected a field's name"),
        (r#"{"\q"}"#, "an escape that does not exist"),
    ] {
        let error = Template::parse(template).map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|error| error.contains(problem)), "{template}: {error:?}");
    }
    let deep = format!("{{.a{}{}}}", "[?(@".repeat(100), ")]".repeat(100));
    assert!(Template::parse(&deep).is_err());
}

#[test]
fn an_index_beyond_the_end_is_an_error_as_in_kubectl() {
    let template = Template::parse("{.items[2]}").unwrap();
    let error = template.render(&document()).unwrap_err();
    assert_eq!(error.to_string(), "array index out of bounds: index 2, length 2");
}

#[test]
fn a_template_that_multiplies_what_it_finds_is_stopped() {
    let nested = json!([(0..50).fold(json!(1), |inner, _| json!({"a": inner}))]);
    for template in
        ["{..[*]..[*]..[*]..[*]..[*]..[*]}".to_owned(), format!("{{$[0]{}}}", "['a','a','a','a']".repeat(40))]
    {
        let template = Template::parse(&template).unwrap();
        assert_eq!(template.render(&nested), Err(EvaluateError::TooMuch));
        assert_eq!(template.values(&nested), Err(EvaluateError::TooMuch));
    }
}

#[test]
fn paths_may_leave_out_braces_and_the_first_dot() {
    for text in ["{.metadata.name}", ".metadata.name", "metadata.name", " metadata.name "] {
        let object = json!({"metadata": {"name": "x"}});
        assert_eq!(Path::parse_relaxed(text).unwrap().find(&object), Ok(vec![&json!("x")]), "{text}");
    }
    assert!(Path::parse_relaxed("{.a}{.b}").is_err());
}

proptest::proptest! {
    #[test]
    fn no_template_is_too_odd_to_be_refused_politely(text in r#"([{}\[\].$@?()*'"\\=<>!:, a1-]|range|end|é){0,24}"#) {
        if let Ok(template) = Template::parse(&text) {
            template.render(&document()).ok();
            template.values(&document()).ok();
        }
        Path::parse_relaxed(&text).ok();
    }

    #[test]
    fn any_name_is_found_when_it_is_escaped(name in "[^\\\\]{1,12}") {
        let object = json!({name.clone(): 7});
        let escaped: String = name.chars().flat_map(|one| ['\\', one]).collect();
        let template = Template::parse(&format!("{{.{escaped}}}")).unwrap();
        proptest::prop_assert_eq!(template.render(&object), Ok("7".to_owned()));
    }
}
