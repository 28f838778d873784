//! A runtime in a directory of its own, images made on the spot, and the machine's state before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use weir_runtime::cgroup::QosClass;
use weir_runtime::images::LayerLimits;
use weir_runtime::logs::{Cancel, LogOptions};
use weir_runtime::{
    Config, ContainerKey, ContainerSpec, ContainerStatus, Exit, PullPolicy, Resources, Runtime, Sandbox,
    SandboxSpec,
};
use weir_tests::wait;

pub(crate) const IMAGE: &str = "weir.test/busybox:v1";
const DEADLINE: Duration = Duration::from_secs(20);

/// The program that dispatches to the shim.
pub(crate) fn shim_program() -> PathBuf {
    env!("CARGO_BIN_EXE_weir-runtime-test-shim").into()
}

/// One layer as tar bytes.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    /// An entry under exactly this name, however wicked: the builder's own methods would clean it.
    pub(crate) fn raw(mut self, mut header: tar::Header, name: &str, target: &str, content: &[u8]) -> Self {
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).expect("writing to memory");
        self
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.raw(Self::header(tar::EntryType::Directory, 0o755), name, "", b"")
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(Self::header(tar::EntryType::Regular, 0o644), name, "", content)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(Self::header(tar::EntryType::Symlink, 0o777), name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(Self::header(tar::EntryType::Link, 0o644), name, target, b"")
    }

    /// busybox with its applets, and the files of a small system.
    pub(crate) fn busybox() -> Self {
        let busybox = fs::read("/usr/bin/busybox").expect("busybox-static is installed");
        let mut layer = ["bin/", "etc/", "tmp/", "root/"].into_iter().fold(Self::new(), Self::directory);
        layer = layer.raw(Self::header(tar::EntryType::Regular, 0o755), "bin/busybox", "", &busybox);
        for applet in
            "sh echo sleep cat id hostname env ls mount dd mkdir touch rm kill pwd ulimit head tail grep \
                       mknod true false seq wc readlink chmod ps sync tty stty test"
                .split_whitespace()
        {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        layer
            .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/tmp:/bin/sh\n")
            .file("etc/group", b"root:x:0:\nweb:x:102:\nlog:x:4:web\n")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// An OCI image layout in a directory.
pub(crate) struct Layout(pub(crate) PathBuf);

impl Layout {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).expect("a directory");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        Self(path)
    }

    /// Writes a blob; returns its descriptor.
    pub(crate) fn blob(&self, kind: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = hex(bytes);
        fs::write(self.0.join("blobs/sha256").join(&digest), bytes).expect("a blob");
        serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    /// Writes an image of these layers; returns its manifest's descriptor.
    pub(crate) fn image(
        &self,
        config: serde_json::Value,
        layers: &[Vec<u8>],
        compression: Compression,
    ) -> serde_json::Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
        let blobs: Vec<_> = layers
            .iter()
            .map(|layer| match compression {
                Compression::None => self.blob("application/vnd.oci.image.layer.v1.tar", layer),
                Compression::Gzip => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(layer).expect("writing to memory");
                    let bytes = encoder.finish().expect("writing to memory");
                    self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &bytes)
                }
                Compression::Zstd => {
                    let bytes = zstd::encode_all(layer.as_slice(), 1).expect("compressing");
                    self.blob("application/vnd.oci.image.layer.v1.tar+zstd", &bytes)
                }
            })
            .collect();
        let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": blobs });
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    /// Writes the index: full references and the descriptors they name.
    pub(crate) fn index(&self, images: &[(&str, serde_json::Value)]) {
        let manifests: Vec<_> = images
            .iter()
            .map(|(reference, descriptor)| {
                let mut descriptor = descriptor.clone();
                descriptor["annotations"] =
                    serde_json::json!({ "org.opencontainers.image.ref.name": reference });
                descriptor
            })
            .collect();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.0.join("index.json"), index.to_string()).expect("an index");
    }

    pub(crate) fn archive(&self, path: &Path) {
        let mut archive = tar::Builder::new(File::create(path).expect("an archive"));
        archive.append_dir_all(".", &self.0).expect("an archive");
        archive.finish().expect("an archive");
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layout with the busybox image under [`IMAGE`].
pub(crate) fn busybox_layout(path: PathBuf) -> Layout {
    let layout = Layout::new(path);
    let config = serde_json::json!({ "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["/bin/sh"], "WorkingDir": "/root" });
    let image = layout.image(config, &[Layer::busybox().bytes()], Compression::Gzip);
    layout.index(&[(IMAGE, image)]);
    layout
}

/// A runtime of its own: directory, cgroups, and one pod when asked for.
pub(crate) struct Node {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cgroup: String,
    pub(crate) runtime: Option<Runtime>,
}

impl Node {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().expect("a directory");
        busybox_layout(directory.path().join("layout"));
        let cgroup = format!("weir-runtime-test-{}-{number}", std::process::id());
        let mut node = Self { directory, cgroup, runtime: None };
        node.open();
        node
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            state_dir: self.directory.path().join("state"),
            cgroup_parent: self.cgroup.clone(),
            agent_exe: shim_program(),
            image_sources: vec![self.directory.path().join("layout")],
            registries: None,
            layer_limits: LayerLimits::default(),
        }
    }

    pub(crate) fn open(&mut self) {
        self.runtime = None;
        self.runtime = Some(Runtime::open(self.config()).expect("opening the runtime"));
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("an open runtime")
    }

    pub(crate) fn sandbox_spec(&self, uid: &str) -> SandboxSpec {
        SandboxSpec {
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: "pod".to_owned(),
            hostname: "web-1".to_owned(),
            host_network: false,
            host_ipc: false,
            host_pid: false,
            share_process_namespace: false,
            user_namespace: false,
            sysctls: BTreeMap::new(),
            qos: QosClass::Burstable,
            resources: Resources::default(),
            hosts: "127.0.0.1 localhost\n".to_owned(),
            resolv_conf: "nameserver 10.96.0.10\n".to_owned(),
        }
    }

    pub(crate) fn sandbox(&self, uid: &str) -> Sandbox {
        self.runtime().create_sandbox(&self.sandbox_spec(uid)).expect("a sandbox")
    }

    /// A container of busybox that runs `script`.
    pub(crate) fn container(&self, uid: &str, name: &str, script: &str) -> ContainerSpec {
        let image = self.runtime().images().resolve(IMAGE, PullPolicy::IfNotPresent).expect("the image");
        let mut spec = ContainerSpec::new(ContainerKey::new(uid, name, 0), image);
        spec.command = vec!["sh".into(), "-c".into(), script.into()];
        spec
    }

    pub(crate) fn run(&self, spec: &ContainerSpec) -> ContainerStatus {
        self.runtime().create_container(spec).expect("creating the container");
        self.runtime().start_container(&spec.key).expect("starting the container")
    }

    pub(crate) fn wait(&self, key: &ContainerKey) -> Exit {
        let exit = self.runtime().wait_container(key, DEADLINE).expect("the container");
        exit.expect("the container ends in time")
    }

    /// Runs `script` to its end in a pod of its own; returns how it ended and what it wrote.
    pub(crate) fn finish(&self, spec: &ContainerSpec) -> (Exit, String) {
        self.run(spec);
        let exit = self.wait(&spec.key);
        (exit, self.log(&spec.key))
    }

    pub(crate) fn log(&self, key: &ContainerKey) -> String {
        let reader = self.runtime().logs(key, LogOptions::default(), Cancel::new()).expect("the log");
        let bytes: Vec<u8> = reader.map(|item| item.expect("an entry")).collect::<Vec<_>>().concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the container has written `text`.
    pub(crate) fn wait_for_log(&self, key: &ContainerKey, text: &str) {
        wait_until(&format!("{key} writes {text:?}"), || self.log(key).contains(text));
    }

    /// Cgroup directories that carry this node's name.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let top = PathBuf::from("/sys/fs/cgroup");
        let mut roots = vec![top.clone()];
        roots.extend(fs::read_dir(top).expect("cgroups").flatten().map(|hierarchy| hierarchy.path()));
        roots.into_iter().map(|root| root.join(&self.cgroup)).filter(|path| path.exists()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = &self.runtime {
            for uid in runtime.pod_uids().unwrap_or_default() {
                if let Err(error) = runtime.remove_sandbox(&uid) {
                    let _ = writeln!(std::io::stderr(), "cannot remove pod {uid}: {error}");
                }
            }
        }
        self.runtime = None;
        for path in self.cgroups() {
            let _ = fs::remove_dir(path);
        }
    }
}

pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    wait::until_true(what, DEADLINE, condition);
}

pub(crate) fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("a kill");
}

/// The process that runs as the shim of the container in this directory.
pub(crate) fn shim_of(directory: &str) -> i32 {
    let found = fs::read_dir("/proc").expect("processes").flatten().find_map(|process| {
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let is_shim = command.starts_with("weir shim ") && command.contains(directory);
        is_shim.then(|| process.file_name().to_str()?.parse().ok()).flatten()
    });
    found.expect("a shim")
}

/// What a container may leave behind: mounts and processes that mention `needle`, and the namespaces that exist.
pub(crate) fn traces(needle: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    found.extend(mounts.lines().filter(|line| line.contains(needle)).map(|line| format!("mount: {line}")));
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(needle) {
            found.insert(format!("process: {command}"));
        }
    }
    found
}
