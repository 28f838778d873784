//! The face of the crate: sandboxes and containers of one node.
//!
//! State directory:
//!
//! ```text
//! lock                                 held by the runtime that has the directory open
//! images/                              see [`crate::images`]
//! pods/<uid>/.sandbox/                 see [`crate::sandbox`]
//! pods/<uid>/.images/<volume>/         volumes that show an image
//! pods/<uid>/<container>/<restart>.log
//! pods/<uid>/<container>/<restart>/    one container: its record, bundle, root, shim; see [`crate::shim`]
//! ```

mod collection;
mod logs;
mod sessions;
mod usage;
mod volumes;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::bundle;
use crate::cgroup::{Hierarchies, PodCgroups};
use crate::container::{ContainerEvent, ContainerKey, ContainerSpec, ContainerState, ContainerStatus, Exit};
use crate::error::{Error, Result};
use crate::images::{ImageStore, LayerLimits, RegistrySettings, snapshot};
use crate::json_file;
use crate::mounts;
use crate::sandbox::{self, Sandbox, SandboxSpec};
use crate::shim::process::InitProcess;
use crate::shim::protocol::{Request, Response};
use crate::shim::{Program, SETTINGS_FILE, Settings, ShimError, client};
use crate::table::Table;
use crate::watch::Watcher;

pub use usage::{ContainerUsage, DiskUsage, PodUsage, TreeUsage, tree_usage};
pub use volumes::image_volume;

/// The container's specification and what was decided when it was created.
const RECORD_FILE: &str = "container.json";
/// How long a process may take to die of SIGKILL, and its shim to clean up behind it.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(3);
const LOCK_LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub struct Config {
    /// Everything the runtime keeps. One runtime per directory.
    pub state_dir: PathBuf,
    /// Path of the pods' cgroups, relative to the root of each hierarchy: `weir/<cluster>/<node>/pods`.
    pub cgroup_parent: String,
    /// The program whose `main` calls [`crate::shim::dispatch`] first.
    pub agent_exe: PathBuf,
    /// OCI image layouts: directories or archives.
    pub image_sources: Vec<PathBuf>,
    /// How registries are asked for what no source has; nothing for: not at all.
    pub registries: Option<RegistrySettings>,
    /// What a layer of an image may come to.
    pub layer_limits: LayerLimits,
}

/// What is kept of a container; with it the container can be found again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: ContainerSpec,
    pub(crate) created_at: Timestamp,
    /// Relative to each hierarchy's root.
    pub(crate) cgroup: String,
}

/// All methods block; all may be called from several threads at once, with one caller per container and per sandbox.
#[derive(Debug)]
pub struct Runtime {
    pods: PathBuf,
    images: ImageStore,
    program: Program,
    cgroups: PodCgroups,
    table: Arc<Table>,
    watcher: Watcher,
    /// Held while this runtime lives: two would undo each other's work.
    _lock: File,
}

impl Runtime {
    /// Opens the state directory and takes up what an earlier process left: running containers, their exits, sandboxes.
    pub fn open(config: Config) -> Result<Self> {
        let pods = config.state_dir.join("pods");
        fs::create_dir_all(&pods).map_err(Error::io("create", &pods))?;
        // Volumes with secrets and containers' files lie there. Containers see their own through mounts.
        fs::set_permissions(&pods, PermissionsExt::from_mode(0o700)).map_err(Error::io("close", &pods))?;
        // Mounts are recognised by their path in the kernel's table, which knows no links.
        let pods = pods.canonicalize().map_err(Error::io("resolve", &pods))?;
        let lock = lock(&config.state_dir)?;
        let hierarchies = Hierarchies::detect()?;
        let table = Arc::new(Table::default());
        let images = ImageStore::open(config.state_dir.join("images"), config.image_sources)?
            .with_limits(config.layer_limits);
        let runtime = Self {
            images: match config.registries {
                Some(settings) => images.with_registries(settings),
                None => images,
            },
            program: Program::load(&config.agent_exe)?,
            cgroups: PodCgroups::new(hierarchies.clone(), &config.cgroup_parent)?,
            watcher: Watcher::start(hierarchies, table.clone())
                .map_err(Error::io("start the watcher of", &pods))?,
            pods,
            table,
            _lock: lock,
        };
        for dir in container_dirs(&runtime.pods)? {
            runtime.recover(&dir)?;
        }
        Ok(runtime)
    }

    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// The exits of all containers, each once, in the order they are noticed. Those that were noticed before the first call
    /// come first: also exits found at [`Runtime::open`]. A second call takes the channel over.
    pub fn events(&self) -> mpsc::Receiver<ContainerEvent> {
        self.table.subscribe()
    }

    /// Makes the pod's namespaces, `/dev/shm`, files and cgroups; returns the existing one when called again.
    pub fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        let dir = self.pod_dir(&spec.uid)?;
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        sandbox::create(spec, &dir, &self.cgroups, &self.program)
    }

    /// Replaces the containers' `/etc/hosts` and `/etc/resolv.conf`, in running containers too: the pod's address is known
    /// only after its sandbox. A file that was empty when a container was created is not mounted there.
    pub fn set_sandbox_files(&self, uid: &str, hosts: &str, resolv_conf: &str) -> Result<Sandbox> {
        let dir = self.pod_dir(uid)?;
        let sandbox = sandbox::load(&dir)?.ok_or_else(|| Error::NoSandbox { uid: uid.to_owned() })?;
        sandbox::set_files(sandbox, hosts, resolv_conf)
    }

    /// The complete sandboxes. After a reboot there are none, though directories remain; see [`Runtime::pod_uids`].
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let uids = self.pod_uids()?;
        let loaded = uids.iter().map(|uid| sandbox::load(&self.pods.join(uid))).filter_map(Result::transpose);
        loaded.collect()
    }

    /// Every pod of which something is left, complete or not: what [`Runtime::remove_sandbox`] can clean up.
    pub fn pod_uids(&self) -> Result<Vec<String>> {
        let names = directories(&self.pods)?.into_iter();
        Ok(names.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())).collect())
    }

    /// Where everything of a pod lies, whether or not there is anything yet.
    pub fn pod_directory(&self, uid: &str) -> Result<PathBuf> {
        self.pod_dir(uid)
    }

    /// Removes the pod's containers, running or not, and everything else of the pod, logs included.
    pub fn remove_sandbox(&self, uid: &str) -> Result<()> {
        let dir = self.pod_dir(uid)?;
        for status in self.list_pod(uid) {
            self.remove_container(&status.key)?;
        }
        sandbox::remove(uid, &dir, &self.cgroups)
    }

    /// Creates the container in its pod's sandbox, up to the point where only [`Runtime::start_container`] is missing.
    /// Returns the existing one when called again.
    pub fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus> {
        if let Ok(status) = self.status(&spec.key) {
            return Ok(status);
        }
        let dir = self.container_dir(&spec.key)?;
        let pod = self.pod_dir(&spec.key.pod_uid)?;
        let sandbox =
            sandbox::load(&pod)?.ok_or_else(|| Error::NoSandbox { uid: spec.key.pod_uid.clone() })?;
        let record = Record {
            cgroup: format!("{}/{}", sandbox.cgroup, spec.key.id()),
            spec: spec.clone(),
            created_at: Timestamp::now(),
        };
        let created = self.create_in(&dir, &record, &sandbox);
        if let Err(error) = &created {
            // What failed matters more than what cannot be cleaned up after it: the next try meets that again.
            let _ = self.clean(&dir, &record.cgroup);
            if let Error::Shim(ShimError::Start(problem)) = error {
                self.record_not_executed(&dir, &record, problem)?;
            }
        }
        created
    }

    /// A container whose program cannot be executed has ended: what comes next is for its restart policy to say.
    fn record_not_executed(&self, dir: &Path, record: &Record, problem: &str) -> Result<()> {
        let exit = Exit::not_executed(problem.to_owned(), Timestamp::now());
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        save(&dir.join(crate::shim::EXIT_FILE), &exit)?;
        save(&dir.join(RECORD_FILE), record)?;
        self.table.insert(status_of(record, log_path(dir), ContainerState::Exited(exit)));
        Ok(())
    }

    /// The process namespace of the container whose processes this one is to see.
    fn namespace_of_target(&self, spec: &ContainerSpec) -> Result<Option<(PathBuf, InitProcess)>> {
        let Some(target) = &spec.target else { return Ok(None) };
        let gone = || Error::NoTarget { key: target.to_string() };
        let ContainerState::Running { pid, .. } = self.status(target)?.state else { return Err(gone()) };
        let process = InitProcess::of(pid).ok_or_else(gone)?;
        Ok(Some((PathBuf::from(format!("/proc/{pid}/ns/pid")), process)))
    }

    fn create_in(&self, dir: &Path, record: &Record, sandbox: &Sandbox) -> Result<ContainerStatus> {
        let spec = &record.spec;
        self.clean(dir, &record.cgroup)?;
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        // Until the record says that the layers are in use.
        let _pin = self.images.pin_layers(&spec.image.reference, &spec.image.layers)?;
        save(&dir.join(RECORD_FILE), record)?;
        let rootfs = snapshot::mount(&self.images, &spec.image.layers, dir)?;
        sandbox::ensure_pause(sandbox, &self.cgroups, &self.program)?;
        let target = self.namespace_of_target(spec)?;
        let processes = target.as_ref().map(|(path, _)| path.as_path());
        let hierarchies = self.cgroups.hierarchies();
        let bundle = bundle::compose(spec, sandbox, dir, &rootfs, &record.cgroup, hierarchies, processes)?;
        save(&dir.join("config.json"), &bundle.config)?;
        let log = log_path(dir);
        let settings = Settings {
            id: spec.key.id(),
            cgroup: record.cgroup.clone(),
            log: log.clone(),
            uid: bundle.uid,
            deny_devices: !spec.security.privileged,
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
        };
        save(&dir.join(SETTINGS_FILE), &settings)?;
        let child = self.program.spawn_shim(dir)?;
        // A pid is another process's once its own has gone: then the namespace may have been anybody's.
        if let (Some((_, process)), Some(target)) = (&target, &spec.target)
            && !process.is_alive()
        {
            return Err(Error::NoTarget { key: target.to_string() });
        }
        let pid = match client::ask(dir, &Request::State)? {
            Response::State { pid, .. } => pid,
            other => return Err(unexpected(&other)),
        };
        let status = status_of(record, log, ContainerState::Created { pid });
        self.table.insert(status.clone());
        self.watcher.watch(spec.key.clone(), dir, &record.cgroup, Some(child))?;
        Ok(status)
    }

    /// Starts a created container; returns once its program has been executed.
    pub fn start_container(&self, key: &ContainerKey) -> Result<ContainerStatus> {
        let status = self.status(key)?;
        if !matches!(status.state, ContainerState::Created { .. }) {
            return Ok(status);
        }
        match client::ask(&self.container_dir(key)?, &Request::Start)? {
            Response::State { started_at: Some(started_at), .. } => self.table.mark_started(key, started_at),
            Response::Failed { problem } => return Err(ShimError::Start(problem).into()),
            other => return Err(unexpected(&other)),
        }
        self.status(key)
    }

    /// Sends the stop signal, waits up to `grace`, then kills; returns how the container ended.
    pub fn stop_container(&self, key: &ContainerKey, grace: Duration) -> Result<Exit> {
        let record = self.record(key)?;
        let image = &record.spec.image.config;
        let name = record.spec.stop_signal.as_ref().or(image.stop_signal.as_ref());
        let signal = name.map_or(Ok(libc::SIGTERM), |name| bundle::signal_number(name))?;
        // Before its program runs nothing in the container could heed a signal.
        let started = !matches!(self.status(key)?.state, ContainerState::Created { .. });
        if started && !grace.is_zero() {
            self.signal_container(key, signal)?;
            if let Some(exit) = self.wait_container(key, grace)? {
                return Ok(exit);
            }
        }
        self.kill_container(key)
    }

    fn kill_container(&self, key: &ContainerKey) -> Result<Exit> {
        self.signal_container(key, libc::SIGKILL)?;
        let exit = self.wait_container(key, KILL_DEADLINE)?;
        exit.ok_or_else(|| Error::Unkillable { key: key.to_string(), seconds: KILL_DEADLINE.as_secs() })
    }

    /// Sends a signal to the container's first process. No error when it has ended.
    pub fn signal_container(&self, key: &ContainerKey, signal: i32) -> Result<()> {
        if matches!(self.status(key)?.state, ContainerState::Exited(_)) {
            return Ok(());
        }
        let dir = self.container_dir(key)?;
        match client::ask(&dir, &Request::Kill { signal }) {
            Ok(Response::Done) => Ok(()),
            Ok(Response::Failed { problem }) => Err(ShimError::Create(problem).into()),
            Ok(other) => Err(unexpected(&other)),
            // It ended between the two looks; the watcher is about to say so.
            Err(_) if !client::is_alive(&dir) => Ok(()),
            Err(_) if dir.join(crate::shim::EXIT_FILE).exists() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end; `None` when it did not come within `timeout`.
    pub fn wait_container(&self, key: &ContainerKey, timeout: Duration) -> Result<Option<Exit>> {
        self.table.wait(key, timeout).ok_or_else(|| Error::NoContainer { key: key.to_string() })
    }

    /// Kills what runs and removes all of the container but its log file.
    pub fn remove_container(&self, key: &ContainerKey) -> Result<()> {
        let dir = self.container_dir(key)?;
        if let Ok(status) = self.status(key) {
            if !matches!(status.state, ContainerState::Exited(_)) {
                self.kill_container(key)?;
            }
            let cgroup = self.record(key)?.cgroup;
            self.clean(&dir, &cgroup)?;
            self.table.remove(key);
        } else if let Ok(Some(sandbox)) = sandbox::load(&self.pod_dir(&key.pod_uid)?) {
            self.clean(&dir, &format!("{}/{}", sandbox.cgroup, key.id()))?;
        }
        Ok(())
    }

    /// All containers that have not been removed, those found at [`Runtime::open`] included.
    pub fn list(&self) -> Vec<ContainerStatus> {
        self.table.list()
    }

    /// The same of one pod.
    pub fn list_pod(&self, uid: &str) -> Vec<ContainerStatus> {
        self.table.of_pod(uid)
    }

    pub fn status(&self, key: &ContainerKey) -> Result<ContainerStatus> {
        self.table.get(key).ok_or_else(|| Error::NoContainer { key: key.to_string() })
    }

    /// Takes up one container of an earlier process: alive behind its shim, ended, or half-made.
    fn recover(&self, dir: &Path) -> Result<()> {
        let path = dir.join(RECORD_FILE);
        // Without a record nothing but the directory was made. It goes with the sandbox.
        let Ok(record) = fs::read(&path) else { return Ok(()) };
        let Ok(record) = serde_json::from_slice::<Record>(&record) else {
            tracing::warn!(path = %path.display(), "unreadable container record ignored");
            return Ok(());
        };
        let key = record.spec.key.clone();
        let state = match client::is_alive(dir).then(|| client::ask(dir, &Request::State)) {
            Some(Ok(Response::State { pid, started_at: Some(started_at) })) => {
                ContainerState::Running { pid, started_at }
            }
            Some(Ok(Response::State { pid, started_at: None })) => ContainerState::Created { pid },
            // Dead, or about to end: the watcher finds out which, and what became of the container.
            _ => ContainerState::Created { pid: 0 },
        };
        self.table.insert(status_of(&record, log_path(dir), state));
        self.watcher.watch(key, dir, &record.cgroup, None)
    }

    /// Removes what is left of a container that does not run, its directory included.
    fn clean(&self, dir: &Path, cgroup: &str) -> Result<()> {
        self.cgroups.hierarchies().kill(cgroup)?;
        self.cgroups.hierarchies().remove(cgroup)?;
        snapshot::unmount(dir)?;
        bundle::subpath::release(dir).map_err(Error::io("release the volumes of", dir))?;
        mounts::unmount_below(dir)?;
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
            _ => Ok(()),
        }
    }

    fn record(&self, key: &ContainerKey) -> Result<Record> {
        let path = self.container_dir(key)?.join(RECORD_FILE);
        let json = fs::read(&path).map_err(|_| Error::NoContainer { key: key.to_string() })?;
        serde_json::from_slice(&json).map_err(io::Error::from).map_err(Error::io("parse", &path))
    }

    fn pod_dir(&self, uid: &str) -> Result<PathBuf> {
        Ok(self.pods.join(safe_name("pod uid", uid)?))
    }

    fn container_dir(&self, key: &ContainerKey) -> Result<PathBuf> {
        let name = safe_name("container name", &key.name)?;
        Ok(self.pod_dir(&key.pod_uid)?.join(name).join(key.restart.to_string()))
    }
}

/// Waits a moment for a predecessor that was killed: the kernel closes its files some time after its death shows.
fn lock(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    let lock = File::create(&path).map_err(Error::io("create", &path))?;
    let deadline = Instant::now() + PREDECESSOR_ENDS_WITHIN;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_LOOK),
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: state_dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
    }
}

fn safe_name<'a>(what: &'static str, name: &'a str) -> Result<&'a str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || name.len() > 253 || !name.chars().all(plain) {
        return Err(Error::InvalidName { what, name: name.to_owned() });
    }
    Ok(name)
}

fn log_path(container_dir: &Path) -> PathBuf {
    container_dir.with_extension("log")
}

fn status_of(record: &Record, log_path: PathBuf, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        key: record.spec.key.clone(),
        id: record.spec.key.id(),
        image: record.spec.image.reference.clone(),
        image_digest: record.spec.image.digest.clone(),
        created_at: record.created_at,
        log_path,
        state,
    }
}

fn save(path: &Path, value: &impl Serialize) -> Result<()> {
    json_file::write(path, value).map_err(|problem| ShimError::Create(problem).into())
}

fn unexpected(response: &Response) -> Error {
    ShimError::Create(format!("the shim gave an unexpected answer: {response:?}")).into()
}

/// `pods/<uid>/<container>/<restart>` of all pods.
fn container_dirs(pods: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pod in directories(pods)? {
        for container in directories(&pod)? {
            if !is_hidden(&container) {
                found.extend(directories(&container)?);
            }
        }
    }
    Ok(found)
}

/// Not a container's: the sandbox, volumes.
fn is_hidden(dir: &Path) -> bool {
    dir.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn directories(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let entry = entry.map_err(Error::io("read", path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
