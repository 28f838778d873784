//! Killed at any moment, a pull is gone on with by the next one, and nothing false or left over remains.

use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use weir_runtime::PullPolicy;
use weir_tests::require;

use super::server::{Server, good};
use super::{Place, image, noise, pull};
use crate::fixture::shim_program;

const LAYERS: u64 = 5;
const SIZE: usize = 600_000;
const KILLS: usize = 30;

#[test]
fn a_pull_killed_at_any_moment_is_gone_on_with() {
    if !require::root() {
        return;
    }
    let place = Place::new();
    image(place.path("layout"), LAYERS, SIZE);
    let layout = place.path("layout");
    let server = Server::start(move |request| {
        let mut answer = good(&layout, request);
        answer.pace = Some((32 << 10, Duration::from_millis(3)));
        answer
    });
    place.allow_plain_http(&server);
    let mut runner = TestRunner::default();
    let (mut killed, mut finished) = (0, 0);
    while killed < KILLS {
        let delay = (5..250u64).new_tree(&mut runner).expect("a delay").current();
        let mut child = Command::new(shim_program())
            .args(["pull", &server.image()])
            .args([place.path("images"), place.path("certs.d")])
            .stdin(Stdio::null())
            .spawn()
            .expect("the puller");
        // The moment is what is tested: there is no condition to wait for.
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("killing the puller");
        if child.wait().expect("the puller").success() {
            finished += 1;
            verify(&place, &server);
            std::fs::remove_dir_all(place.path("images")).expect("the store");
        } else {
            killed += 1;
        }
    }
    pull(&place.store(), &server.image(), &Default::default()).expect("the image");
    verify(&place, &server);
    let resumed = server.requests().iter().filter(|request| request.header("range").is_some()).count();
    assert!(resumed > 0, "no download was gone on with in {killed} kills and {finished} pulls");
}

/// Everything is there, byte by byte, and nothing else.
fn verify(place: &Place, server: &Server) {
    let store = place.store();
    let image = store.resolve(&server.image(), PullPolicy::Never).expect("the image");
    assert_eq!((place.unpacked(), place.partial()), (LAYERS as usize, 0));
    for (number, layer) in image.layers.iter().enumerate() {
        let layer = place.path("images/layers").join(layer.trim_start_matches("sha256:"));
        let file = std::fs::read(layer.join(format!("file-{number}"))).expect("the layer's file");
        assert!(file == noise(number as u64 + 1, SIZE), "layer {number} differs");
    }
}
