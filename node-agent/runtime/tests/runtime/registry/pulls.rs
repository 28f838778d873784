//! What a good registry gives is what runs.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use weir_runtime::images::{Keyring, Progress, RegistrySettings, Stage};
use weir_runtime::{ContainerKey, ContainerSpec, ImageStore, PullPolicy, Runtime};
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

#[test]
fn layers_come_several_at_a_time_and_no_more_than_that() {
    if !weir_tests::require::root() {
        return;
    }
    let place = Place::new();
    image(place.path("layout"), 6, 50_000);
    let (layout, most) = (place.path("layout"), Arc::new(AtomicUsize::new(0)));
    let (pair, now, seen) = (Barrier::new(2), AtomicUsize::new(0), Arc::clone(&most));
    let server = Server::start(move |request| {
        let answer = good(&layout, request);
        if request.is_blob() && answer.body.len() > 10_000 {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // None is answered before another has been asked for, and time for a third.
            pair.wait();
            thread::sleep(Duration::from_millis(100));
            now.fetch_sub(1, Ordering::SeqCst);
        }
        answer
    });
    place.allow_plain_http(&server);
    let patience = Duration::from_secs(20);
    let settings = RegistrySettings { parallel_layers: 2, patience, attempts: 1, ..place.settings() };
    let store = ImageStore::open(place.path("images"), vec![]).expect("a store").with_registries(settings);
    pull(&store, &server.image(), &Keyring::default()).expect("the image");
    assert_eq!((place.unpacked(), most.load(Ordering::SeqCst)), (6, 2));
}

#[test]
fn images_in_dockers_own_terms_are_pulled() {
    if !weir_tests::require::root() {
        return;
    }
    let place = Place::new();
    let layout = Layout::new(place.path("layout"));
    // As Docker's second schema has it: the same documents under other names.
    let rename = |descriptor: &serde_json::Value, kind: &str| {
        let mut descriptor = descriptor.clone();
        descriptor["mediaType"] = format!("application/vnd.docker.{kind}").into();
        descriptor
    };
    let put = |document: &serde_json::Value, kind: &str| {
        let document = rename(document, kind);
        rename(&layout.blob("", document.to_string().as_bytes()), kind)
    };
    let layers = [Layer::new().file("one", b"1").bytes(), Layer::new().file("two", b"2").bytes()];
    let oci = layout.image(serde_json::json!({ "User": "web" }), &layers, Compression::Gzip);
    let path = oci["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let manifest = fs::read(layout.0.join("blobs/sha256").join(path)).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    manifest["config"] = rename(&manifest["config"], "container.image.v1+json");
    let parts = manifest["layers"].as_array().expect("layers").iter();
    manifest["layers"] = parts.map(|part| rename(part, "image.rootfs.diff.tar.gzip")).collect();
    let mut own = put(&manifest, "distribution.manifest.v2+json");
    own["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
    let list = serde_json::json!({ "schemaVersion": 2, "manifests": [own] });
    let list = put(&list, "distribution.manifest.list.v2+json");
    for (descriptor, pulled) in [(&own, "alone"), (&list, "in a list")] {
        layout.index(&[("weir.test/image:v1", descriptor.clone())]);
        let directory = layout.0.clone();
        let server = Server::start(move |request| {
            let mut answer = good(&directory, request);
            let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            for (name, value) in &mut answer.headers {
                if let ("content-type", Some(kind)) = (*name, document["mediaType"].as_str()) {
                    *value = kind.to_owned();
                }
            }
            answer
        });
        place.allow_plain_http(&server);
        let image = pull(&place.store(), &server.image(), &Keyring::default()).expect(pulled).image;
        assert_eq!(image.digest, own["digest"].as_str().expect("a digest"), "{pulled}");
        assert_eq!((image.layers.len(), image.config.user.as_deref()), (2, Some("web")), "{pulled}");
    }
}
