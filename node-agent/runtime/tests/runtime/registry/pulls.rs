//! What a good registry gives is what runs.

use std::fs;
use std::sync::Arc;
use std::thread;

use weir_runtime::images::{Keyring, Progress, RegistrySettings, Stage};
use weir_runtime::{ContainerKey, ContainerSpec, PullPolicy, Runtime};
use weir_tests::registry::{PASSWORD, Registry, USER, available};

use super::server::{Answer, Server, good};
use super::{Place, image, keyring, pull};
use crate::fixture::{Compression, Layer, Layout, Node, busybox_layout};

/// A registry that the place trusts, and what opens it.
fn trusted() -> (Registry, Place, Keyring) {
    let (registry, place) = (Registry::on_loopback(), Place::new());
    let ca = registry.authority.display().to_string();
    place.configure(&registry.name, &format!("ca = '{ca}'"));
    let keyring = keyring(&registry.name, USER, PASSWORD);
    (registry, place, keyring)
}

#[test]
fn an_image_is_pulled_over_tls_with_a_password_and_runs() {
    if !available() {
        return;
    }
    let (registry, place, keyring) = trusted();
    let reference = registry.push(&busybox_layout(place.path("layout")).0, "team/busybox", "v1");
    let mut node = Node::new();
    let registries =
        Some(RegistrySettings { config_dir: Some(place.path("certs.d")), ..RegistrySettings::default() });
    node.runtime = None;
    node.runtime =
        Some(Runtime::open(weir_runtime::Config { registries, ..node.config() }).expect("a runtime"));
    let progress = Progress::default();
    let pulled = node.runtime().images().pull(&reference, PullPolicy::IfNotPresent, &keyring, &progress);
    let pulled = pulled.expect("the image");
    assert!(pulled.effort.is_some() && pulled.image.reference == reference);
    let Stage { received, size, unpacked, layers } = progress.stage();
    assert_eq!((received, unpacked, layers, size), (size, 1, 1, pulled.image.size));
    node.sandbox("pulled");
    let mut spec = ContainerSpec::new(ContainerKey::new("pulled", "a", 0), pulled.image);
    spec.command = ["sh", "-c", "echo pulled $FROM_IMAGE"].map(str::to_owned).to_vec();
    let (exit, log) = node.finish(&spec);
    assert_eq!((exit.code, log.as_str()), (0, "pulled yes\n"));
    let again = node.runtime().images().pull(&reference, PullPolicy::IfNotPresent, &keyring, &progress);
    assert_eq!(again.expect("the image").effort, None);
}

#[test]
fn who_may_not_pull_is_told_what_is_missing() {
    if !available() {
        return;
    }
    let (registry, place, good) = trusted();
    let reference = registry.push(&image(place.path("layout"), 1, 100).0, "team/image", "v1");
    let store = place.store();
    let refusal = |reference: &str, keyring: &Keyring| {
        pull(&place.store(), reference, keyring).expect_err("refused").to_string()
    };
    let none = refusal(&reference, &Keyring::default());
    assert!(none.contains("without credentials") && none.contains("imagePullSecrets"), "{none}");
    let wrong = refusal(&reference, &keyring(&registry.name, USER, "guess"));
    assert!(wrong.contains("refuses the credentials") && !wrong.contains("guess"), "{wrong}");
    let missing = refusal(&reference.replace(":v1", ":v9"), &good);
    assert!(missing.contains(":v9: not found") && missing.contains(&registry.name), "{missing}");
    // The second secret opens what the first does not.
    let mut both = keyring(&registry.name, "nobody", "x");
    let json = serde_json::json!({ "auths": { &registry.name: { "username": USER, "password": PASSWORD } } });
    both.add_config_json(json.to_string().as_bytes()).expect("a keyring");
    pull(&store, &reference, &both).expect("the image");
    fs::remove_dir_all(place.path("certs.d")).expect("the configuration");
    let untrusted = refusal(&reference, &good);
    let advice = format!("{}/ca.crt", place.path("certs.d").join(&registry.name).display());
    assert!(untrusted.contains("is not trusted") && untrusted.contains(&advice), "{untrusted}");
}

#[test]
fn indexes_digests_and_every_compression_are_pulled() {
    if !available() {
        return;
    }
    let (registry, place, keyring) = trusted();
    for (tag, compression) in
        [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)]
    {
        let layout = Layout::new(place.path(tag));
        let layers = [Layer::new().file("one", b"1").bytes(), Layer::new().file("two", b"2").bytes()];
        let mut own = layout.image(serde_json::json!({}), &layers, compression);
        own["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
        let mut foreign = own.clone();
        foreign["platform"]["architecture"] = "s390x".into();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [foreign, own],
            "mediaType": "application/vnd.oci.image.index.v1+json" });
        let kind = "application/vnd.oci.image.index.v1+json";
        layout.index(&[("x:v1", layout.blob(kind, index.to_string().as_bytes()))]);
        let reference = registry.push(&layout.0, "team/image", tag);
        let image = pull(&place.store(), &reference, &keyring).expect("the image").image;
        assert_eq!(
            (image.digest.as_str(), image.layers.len()),
            (own["digest"].as_str().expect("a digest"), 2)
        );
        let pinned = format!("{}@{}", reference.replace(&format!(":{tag}"), ""), image.digest);
        assert_eq!(pull(&place.store(), &pinned, &keyring).expect("by digest").image.digest, image.digest);
    }
    assert_eq!((place.unpacked(), place.partial()), (2, 0));
}

#[test]
fn plain_http_is_spoken_only_where_it_is_configured() {
    let place = Place::new();
    image(place.path("layout"), 1, 100);
    let server = Server::of(place.path("layout"));
    let error = pull(&place.store(), &server.image(), &Keyring::default()).expect_err("no TLS").to_string();
    assert!(error.contains("does not speak TLS") && error.contains("hosts.toml"), "{error}");
    place.allow_plain_http(&server);
    if weir_tests::require::root() {
        pull(&place.store(), &server.image(), &Keyring::default()).expect("the image");
    }
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    if !weir_tests::require::root() {
        return;
    }
    let place = Place::new();
    image(place.path("layout"), 2, 1000);
    let layout = place.path("layout");
    let mirror = Server::start(move |request| match request.is_blob() {
        true => Answer::new(503, "gone fishing"),
        false => good(&layout, request),
    });
    let server = Server::of(place.path("layout"));
    let toml = format!("server = 'http://{}'\n[host.'http://{}']", server.address, mirror.address);
    place.configure("registry.test", &toml);
    let keyring = keyring("registry.test", "u", "p");
    pull(&place.store(), "registry.test/team/image:v1", &keyring).expect("the image");
    assert!(mirror.requests()[0].path.ends_with("?ns=registry.test"));
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(server.requests().iter().all(|request| request.is_blob()));
}

#[test]
fn pods_that_want_one_image_fetch_it_once() {
    if !weir_tests::require::root() {
        return;
    }
    let place = Place::new();
    image(place.path("layout"), 4, 10_000);
    let server = Server::of(place.path("layout"));
    place.allow_plain_http(&server);
    let (store, reference) = (Arc::new(place.store()), server.image());
    let pods: Vec<_> = (0..8)
        .map(|_| {
            let (store, reference) = (Arc::clone(&store), reference.clone());
            thread::spawn(move || store.resolve(&reference, PullPolicy::IfNotPresent).expect("the image"))
        })
        .collect();
    let images: Vec<_> = pods.into_iter().map(|pod| pod.join().expect("a pod")).collect();
    assert!(images.iter().all(|image| *image == images[0]));
    // The manifest, the config, four layers.
    assert_eq!(server.requests().len(), 6);
    assert_eq!((place.unpacked(), place.partial()), (4, 0));
}
