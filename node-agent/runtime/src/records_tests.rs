//! Files that earlier versions left in the state directory: containers of theirs run on, and must be found again. A
//! field that they did not write needs `#[serde(default)]`.

use serde::de::DeserializeOwned;

use crate::images::Image;
use crate::runtime::Record;
use crate::sandbox::Sandbox;
use crate::shim::Settings;
use crate::shim::process::InitProcess;
use crate::{Exit, ExitReason};

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("written by version 0.1.0: {error}\n{text}"))
}

#[test]
fn records_of_version_0_1_0_are_read() {
    let record: Record = read(include_str!("../testdata/0.1.0/container.json"));
    let sandbox: Sandbox = read(include_str!("../testdata/0.1.0/sandbox.json"));
    assert_eq!((record.spec.key.name.as_str(), record.spec.key.restart), ("web", 0));
    assert_eq!(record.spec.key.pod_uid, sandbox.spec.uid);
    assert_eq!(record.cgroup, format!("{}/{}", sandbox.cgroup, record.spec.key.id()));
    let image: Image = read(include_str!("../testdata/0.1.0/image.json"));
    assert_eq!(image.layers, record.spec.image.layers);
    let settings: Settings = read(include_str!("../testdata/0.1.0/shim.json"));
    assert_eq!(settings.cgroup, record.cgroup);
    let init: InitProcess = read(include_str!("../testdata/0.1.0/init.json"));
    assert!(init.pid > 0);
    let exit: Exit = read(include_str!("../testdata/0.1.0/exit.json"));
    assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));
}
