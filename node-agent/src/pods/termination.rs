//! Last words of containers: what they wrote into `terminationMessagePath`, or, where the policy says so, the end of their log.
//!
//! The file lies beside the pod's volumes, one for each run, and is bind-mounted into the container. It is read once the run
//! has ended.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use weir_proto::core::v1::{Container, Pod};
use weir_runtime::logs::{Cancel, LogOptions};
use weir_runtime::{ContainerKey, Mount, Runtime};

use super::observed::exit;
use super::perform::find_container;
use super::worker::Worker;

/// The kubelet's limits, in bytes and lines.
const MESSAGE_LIMIT: u64 = 4096;
const LOG_LIMIT: usize = 2048;
const LOG_LINES: u64 = 80;

fn file(pod_dir: &Path, key: &ContainerKey) -> PathBuf {
    // No volume can have this name.
    pod_dir.join(".volumes/.termination").join(format!("{}.{}", key.name, key.restart))
}

/// Makes the file, empty. Whatever the container's user is may write it.
pub(super) fn prepare(pod_dir: &Path, key: &ContainerKey) -> io::Result<()> {
    let path = file(pod_dir, key);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&path, "")?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o666))
}

/// Where the container finds it. A volume at the same path wins.
pub(super) fn mount(container: &Container, pod_dir: &Path, key: &ContainerKey) -> Option<Mount> {
    let path = &container.termination_message_path;
    let taken = container.volume_mounts.iter().any(|mount| mount.mount_path == *path);
    (!path.is_empty() && !taken).then(|| Mount {
        source: file(pod_dir, key),
        destination: PathBuf::from(path),
        ..Mount::default()
    })
}

impl Worker {
    /// Reads the messages of runs that have ended since the last look.
    pub(super) async fn read_last_words(&mut self, pod: &Pod) {
        let Some(dir) = self.memory.sandbox.as_ref().map(|sandbox| sandbox.dir.clone()) else { return };
        let mut runs = self.context.runtime.list();
        runs.retain(|run| run.key.pod_uid == self.uid);
        self.memory.last_words.retain(|key, _| runs.iter().any(|run| run.key == *key));
        let ended = runs.into_iter().filter_map(|run| Some((run.key.clone(), exit(&run)?.code)));
        let fresh: Vec<_> = ended.filter(|(key, _)| !self.memory.last_words.contains_key(key)).collect();
        for (key, code) in fresh {
            let found = find_container(pod, &key.name);
            let logs = code != 0
                && found
                    .is_some_and(|container| container.termination_message_policy == "FallbackToLogsOnError");
            let (dir, of) = (dir.clone(), key.clone());
            let words =
                self.blocking(move |runtime| read(runtime, &dir, &of, logs)).await.unwrap_or_default();
            self.memory.last_words.insert(key, words);
        }
    }
}

fn read(runtime: &Runtime, pod_dir: &Path, key: &ContainerKey, logs: bool) -> String {
    let message = read_file(&file(pod_dir, key)).unwrap_or_default();
    if !message.is_empty() || !logs {
        return message;
    }
    let options = LogOptions { tail_lines: Some(LOG_LINES), ..LogOptions::default() };
    let Ok(reader) = runtime.logs(key, options, Cancel::new()) else { return String::new() };
    let mut end = Vec::new();
    for output in reader.map_while(Result::ok) {
        end.extend(output);
        // Lines may be long: only the end is kept.
        end.drain(..end.len().saturating_sub(LOG_LIMIT));
    }
    String::from_utf8_lossy(&end).into_owned()
}

fn read_file(path: &Path) -> io::Result<String> {
    // The container has the file itself, never the directory: but what is read is under its control.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut message = Vec::new();
    file.take(MESSAGE_LIMIT).read_to_end(&mut message)?;
    Ok(String::from_utf8_lossy(&message).into_owned())
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::VolumeMount;

    use super::*;

    #[test]
    fn the_message_is_what_the_container_wrote_up_to_a_limit() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = ContainerKey::new("u", "a", 3);
        prepare(dir.path(), &key).expect("a file");
        let path = file(dir.path(), &key);
        assert_eq!(read_file(&path).expect("a message"), "");
        fs::write(&path, "x".repeat(5000)).expect("a message");
        assert_eq!(read_file(&path).expect("a message").len(), 4096);
        prepare(dir.path(), &key).expect("the same run again");
        assert_eq!(read_file(&path).expect("a message"), "");
    }

    #[test]
    fn the_end_of_the_log_stands_in_for_a_message_where_the_policy_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = Runtime::open(weir_runtime::Config {
            state_dir: dir.path().to_owned(),
            cgroup_parent: "weir-last-words".to_owned(),
            agent_exe: std::env::current_exe().expect("this program"),
            image_sources: Vec::new(),
            registries: None,
            layer_limits: Default::default(),
        });
        let runtime = opened.expect("a runtime");
        let pod = runtime.pod_directory("u").expect("a directory");
        let key = ContainerKey::new("u", "a", 0);
        prepare(&pod, &key).expect("a file");
        let log = runtime.log_path(&key).expect("a path");
        fs::create_dir_all(log.parent().expect("a directory")).expect("made");
        let write = |lines: &[String]| {
            let entry = |line: &String| format!("2026-01-02T15:04:05.000000000Z stderr F {line}\n");
            fs::write(&log, lines.iter().map(entry).collect::<String>()).expect("a log");
        };
        assert_eq!(read(&runtime, &pod, &key, true), "", "no log, no words");
        write(&["starting".to_owned(), "panic: no".to_owned()]);
        assert_eq!(read(&runtime, &pod, &key, false), "");
        assert_eq!(read(&runtime, &pod, &key, true), "starting\npanic: no\n");
        // The last 80 lines, of those the last 2048 bytes.
        write(&(0..100).map(|number| format!("line {number}")).collect::<Vec<_>>());
        let said = read(&runtime, &pod, &key, true);
        assert!(said.starts_with("line 20\n") && said.ends_with("line 99\n"), "{said}");
        write(&["x".repeat(5000)]);
        assert_eq!(read(&runtime, &pod, &key, true).len(), LOG_LIMIT);
        // What the container wrote itself counts more.
        fs::write(file(&pod, &key), "own words").expect("a message");
        assert_eq!(read(&runtime, &pod, &key, true), "own words");
    }

    #[test]
    fn a_volume_at_its_path_wins() {
        let key = ContainerKey::new("u", "a", 0);
        let mut container =
            Container { termination_message_path: "/dev/termination-log".to_owned(), ..Container::default() };
        let found = mount(&container, Path::new("/pod"), &key).expect("a mount");
        assert_eq!(found.source, Path::new("/pod/.volumes/.termination/a.0"));
        container.volume_mounts =
            vec![VolumeMount { mount_path: "/dev/termination-log".to_owned(), ..VolumeMount::default() }];
        assert_eq!(mount(&container, Path::new("/pod"), &key), None);
        assert_eq!(mount(&Container::default(), Path::new("/pod"), &key), None);
    }
}
