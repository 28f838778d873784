//! What registries do wrong: each ends, soon and in bounded memory, in an error that names it, or is outlasted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weir_runtime::images::{ImageError, Keyring, Pulled, RegistryError};
use weir_tests::require;

use super::server::{Answer, Request, Server, good};
use super::{Place, image, keyring, pull};

/// A pull from a server that answers so; gives the image's layout to the behaviour.
struct Case {
    place: Place,
    server: Server,
}

impl Case {
    fn new(behaviour: impl Fn(&Request, &dyn Fn() -> Answer) -> Answer + Send + Sync + 'static) -> Self {
        let place = Place::new();
        image(place.path("layout"), 1, 300_000);
        let layout: PathBuf = place.path("layout");
        let server = Server::start(move |request| behaviour(request, &|| good(&layout, request)));
        place.allow_plain_http(&server);
        Self { place, server }
    }

    fn pull(&self, keyring: &Keyring) -> Result<Pulled, ImageError> {
        pull(&self.place.store(), &self.server.image(), keyring)
    }

    fn fails(&self) -> ImageError {
        let began = Instant::now();
        let error = self.pull(&Keyring::default()).expect_err("the pull fails");
        assert!(began.elapsed() < Duration::from_secs(30), "{error} took {:?}", began.elapsed());
        assert_eq!((error.reason(), self.place.unpacked()), ("ErrImagePull", 0), "{error}");
        error
    }

    /// Compressed.
    fn layer_size(&self) -> u64 {
        let blobs = std::fs::read_dir(self.place.path("layout/blobs/sha256")).expect("the layout").flatten();
        blobs.filter_map(|blob| blob.metadata().ok()).map(|blob| blob.len()).max().expect("a layer")
    }

    fn ranges(&self) -> usize {
        self.server.requests().iter().filter(|request| request.header("range").is_some()).count()
    }
}

/// True for the first `count` calls.
fn first(count: usize) -> impl Fn() -> bool + Send + Sync {
    let calls = AtomicUsize::new(0);
    move || calls.fetch_add(1, Ordering::SeqCst) < count
}

#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    if !require::root() {
        return;
    }
    // Every document, then the layer alone.
    for (part, size) in [("/manifests/", 0), ("/blobs/", 0), ("/blobs/", 100_000)] {
        let case = Case::new(move |request, good| {
            let mut answer = good();
            if request.path.contains(part) && answer.body.len() > size {
                let middle = answer.body.len() / 2;
                // Between digits and letters a JSON document stays one.
                let swapped = if answer.body[middle].is_ascii_digit() { b'7' } else { b'8' };
                answer.body[middle] = if answer.body[middle] == swapped { b'6' } else { swapped };
            }
            answer
        });
        let error = case.fails();
        let told = matches!(
            &error,
            ImageError::DigestMismatch { .. } | ImageError::Registry(RegistryError::Malformed { .. })
        );
        assert!(told, "{part}: {error}");
        assert_eq!(case.place.partial(), 0, "nothing false is gone on with");
    }
}

#[test]
fn a_layer_that_breaks_off_is_gone_on_with() {
    if !require::root() {
        return;
    }
    let case = Case::new(|request, good| {
        let answer = good();
        let long = request.is_blob() && answer.body.len() > 100_000;
        if long { answer.cut(90_000) } else { answer }
    });
    case.pull(&Keyring::default()).expect("the image");
    assert!(case.ranges() >= 2, "each break is gone on from");
    assert_eq!((case.place.unpacked(), case.place.partial()), (1, 0));
}

#[test]
fn a_layer_that_never_gets_further_is_given_up_and_kept() {
    if !require::root() {
        return;
    }
    let case = Case::new(|request, good| {
        let answer = good();
        let range = request.header("range").is_some();
        if request.is_blob() && range {
            answer.cut(0)
        } else if answer.body.len() > 100_000 {
            answer.cut(90_000)
        } else {
            answer
        }
    });
    let error = case.fails().to_string();
    let told = format!("after 90000 of {} bytes", case.layer_size());
    assert!(error.contains("broke off layer sha256:") && error.contains(&told), "{error}");
    assert_eq!(case.place.partial(), 1, "the next pull goes on from here");
}

#[test]
fn a_registry_without_ranges_is_asked_from_the_beginning() {
    if !require::root() {
        return;
    }
    let broken = first(1);
    let case = Case::new(move |request, good| {
        let mut whole = good();
        if request.header("range").is_some() {
            // As one that ignores the header: everything, with 200; or that takes the range for wrong.
            whole = if broken() { Answer::new(416, "") } else { whole };
        }
        let long = request.is_blob() && whole.body.len() > 200_000 && request.header("range").is_none();
        if long && broken() { whole.cut(90_000) } else { whole }
    });
    case.pull(&Keyring::default()).expect("the image");
}

#[test]
fn a_damaged_partial_download_is_fetched_again() {
    if !require::root() {
        return;
    }
    let case = Case::new(|_, good| good());
    drop(case.place.store());
    let layer = std::fs::read(case.place.path("layout/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&layer).expect("an index");
    let hex =
        index["manifests"][0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let manifest = std::fs::read(case.place.path("layout/blobs/sha256").join(hex)).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("a manifest");
    let hex =
        manifest["layers"][0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let part = case.place.path("images/ingest/blobs").join(hex).with_extension("part");
    std::fs::write(part, vec![0; 5000]).expect("a file");
    case.pull(&Keyring::default()).expect("the image");
    assert_eq!(case.ranges(), 1);
    assert_eq!((case.place.unpacked(), case.place.partial()), (1, 0));
}

#[test]
fn errors_of_the_server_are_outlasted_or_told() {
    if !require::root() {
        return;
    }
    let sick = first(2);
    let case = Case::new(move |_, good| if sick() { Answer::new(500, "") } else { good() });
    case.pull(&Keyring::default()).expect("the image");
    let json = r#"{"errors":[{"code":"UNKNOWN","message":"the disk is full"}]}"#;
    let error = Case::new(move |_, _| Answer::new(500, json)).fails().to_string();
    assert!(error.contains("answered 500") && error.contains("the disk is full"), "{error}");
    let error = Case::new(|_, _| Answer::new(418, "secret of another service")).fails().to_string();
    assert!(error.contains("418") && !error.contains("secret"), "{error}");
}

#[test]
fn a_registry_that_wants_patience_gets_it_within_reason() {
    if !require::root() {
        return;
    }
    let busy = first(2);
    let case =
        Case::new(move |_, good| if busy() { Answer::new(429, "").with("retry-after", "1") } else { good() });
    let began = Instant::now();
    case.pull(&Keyring::default()).expect("the image");
    assert!(began.elapsed() >= Duration::from_secs(2), "the registry's wish is respected");
    let case = Case::new(|_, _| Answer::new(429, "").with("retry-after", "3600"));
    let error = case.fails().to_string();
    assert!(error.contains("429") && error.contains("after 3600 s"), "{error}");
    assert_eq!(case.server.requests().len(), 1);
}

#[test]
fn redirects_end_and_carry_no_password_to_strangers() {
    if !require::root() {
        return;
    }
    let error = Case::new(|request, _| Answer::new(307, "").with("location", request.path.clone())).fails();
    assert!(error.to_string().contains("more than 5 times"), "{error}");
    let error = Case::new(|_, _| Answer::new(302, "").with("location", "file:///etc/shadow")).fails();
    assert!(error.to_string().contains("to nowhere"), "{error}");

    let place = Place::new();
    image(place.path("layout"), 1, 1000);
    let elsewhere = Arc::new(Server::of(place.path("layout")));
    let (layout, target) = (place.path("layout"), elsewhere.address);
    let server = Server::start(move |request| {
        if request.header("authorization").is_none() {
            return Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
        }
        match request.is_blob() {
            true => Answer::new(307, "").with("location", format!("http://{target}{}", request.path)),
            false => good(&layout, request),
        }
    });
    place.allow_plain_http(&server);
    let keyring = keyring(&server.address.to_string(), "u", "p");
    pull(&place.store(), &server.image(), &keyring).expect("the image");
    assert_eq!(elsewhere.requests().len(), 2);
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn silence_and_dripping_are_noticed() {
    let silent = Case::new(|_, good| {
        std::thread::sleep(Duration::from_secs(4));
        good()
    });
    let error = silent.fails().to_string();
    assert!(error.contains("no answer in time") || error.contains("nothing came"), "{error}");
    let dripping = Case::new(|request, good| {
        let mut answer = good();
        if request.path.contains("/manifests/") {
            answer.pace = Some((1, Duration::from_millis(300)));
        }
        answer
    });
    let error = dripping.fails().to_string();
    assert!(error.contains("too slowly"), "{error}");
    let slow_layer = Case::new(|request, good| {
        let mut answer = good();
        if request.is_blob() && answer.body.len() > 100_000 {
            answer.pace = Some((100, Duration::from_millis(300)));
        }
        answer
    });
    let error = slow_layer.fails().to_string();
    assert!(error.contains("too slowly"), "{error}");
}

#[test]
fn what_has_no_end_is_not_read_to_the_end() {
    let endless = Case::new(|_, _| {
        let mut answer = Answer::new(200, vec![b' '; 1 << 16]);
        (answer.announced, answer.endless) = (Some(1 << 40), true);
        answer
    });
    let error = endless.fails();
    assert!(matches!(error, ImageError::Registry(RegistryError::TooLarge { limit: 4194304, .. })), "{error}");
    let headers = Case::new(|_, good| good().with("x", "y".repeat(1 << 20)));
    assert!(headers.fails().to_string().contains("headers of"));
    let longer = Case::new(|request, good| {
        let mut answer = good();
        if request.is_blob() && answer.body.len() > 100_000 {
            (answer.announced, answer.endless) = (Some(1 << 40), true);
        }
        answer
    });
    if require::root() {
        let error = longer.fails().to_string();
        assert!(error.contains(&format!("is larger than {} bytes", longer.layer_size())), "{error}");
    }
}

#[test]
fn what_is_no_manifest_is_named() {
    let html = Case::new(|_, _| Answer::new(200, "<html>Login</html>").with("content-type", "text/html"));
    let error = html.fails().to_string();
    assert!(error.contains("text/html") && error.contains("is there a registry at this address?"), "{error}");
    let other = Case::new(|_, _| Answer::new(200, "[1, 2]")).fails();
    assert!(matches!(other, ImageError::Malformed { .. }), "{other}");
    let old = r#"{"schemaVersion": 1, "name": "x", "fsLayers": [], "signatures": []}"#;
    let error = Case::new(move |_, _| Answer::new(200, old)).fails();
    assert!(matches!(error, ImageError::SchemaOne { .. }), "{error}");
}

#[test]
fn challenges_without_end_are_ended() {
    let basic = Case::new(|_, _| Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\""));
    assert!(basic.fails().to_string().contains("without credentials"));
    let error = basic.pull(&keyring(&basic.server.address.to_string(), "u", "p")).expect_err("refused");
    assert!(error.to_string().contains("refuses the credentials"), "{error}");
    assert_eq!(basic.server.requests().len(), 3);

    let tokens = Case::new(|request, _| {
        if request.path.starts_with("/token") {
            return Answer::new(200, r#"{"token": "abc"}"#);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\"",
            request.header("host").unwrap_or_default()
        );
        Answer::new(401, "").with("www-authenticate", realm)
    });
    assert!(tokens.fails().to_string().contains("without credentials"));
    let asked = tokens.server.requests();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[1].path, "/token?scope=repository%3Ateam%2Fimage%3Apull&service=s");

    let strange = Case::new(|_, _| Answer::new(401, "").with("www-authenticate", "Negotiate"));
    assert!(strange.fails().to_string().contains("scheme Negotiate"));
}

#[test]
fn tokens_open_the_door_and_are_renewed_when_they_expire() {
    if !require::root() {
        return;
    }
    let (issued, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let case = Case::new(move |request, good| {
        if request.path.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            let json = format!(r#"{{"access_token": "t{number}", "expires_in": 1}}"#);
            return Answer::new(200, json);
        }
        // Each token opens two doors.
        let valid = format!("Bearer t{}", issued.load(Ordering::SeqCst).wrapping_sub(1));
        if request.header("authorization") == Some(&valid) && used.fetch_add(1, Ordering::SeqCst) % 3 < 2 {
            return good();
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap_or_default());
        Answer::new(401, "").with("www-authenticate", realm)
    });
    let user = keyring(&case.server.address.to_string(), "u", "p");
    case.pull(&user).expect("the image");
    let tokens = case.server.requests().into_iter().filter(|request| request.path.starts_with("/token"));
    let tokens: Vec<_> = tokens.collect();
    assert_eq!(tokens.len(), 2);
    assert!(tokens.iter().all(|token| token.header("authorization") == Some("Basic dTpw")));
}

#[test]
fn nobody_at_the_address_is_told() {
    let place = Place::new();
    let server = Server::start(|_| Answer::new(200, ""));
    place.allow_plain_http(&server);
    let reference = server.image();
    let address = server.address;
    drop(server);
    // The listener's thread has gone once nobody answers.
    let refused = || std::net::TcpStream::connect(address).is_err();
    weir_tests::wait::until_true("the server is gone", Duration::from_secs(30), refused);
    let error = pull(&place.store(), &reference, &Keyring::default()).expect_err("nobody").to_string();
    assert!(error.contains(&format!("cannot reach registry {address}")), "{error}");
    place.configure("nowhere.invalid", "");
    let error =
        pull(&place.store(), "nowhere.invalid/x:v1", &Keyring::default()).expect_err("nobody").to_string();
    assert!(error.contains("cannot reach registry nowhere.invalid"), "{error}");
}
