//! The same tests once more on a node of cgroup version 2 alone: in a virtual machine, with a kernel of Debian's that has no
//! version 1 mounted. The machine is emulated, so that any host will do; it has no disk and no network, only this program,
//! its libraries and busybox in memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weir_tests::{debian, require};

use crate::fixture::shim_program;

/// What is worth the time: whatever touches cgroups and namespaces.
const TESTS: &[&str] = &[
    "containers::a_command_that_cannot_be_executed_is_named",
    "containers::a_container_beyond_its_memory_limit_is_reported_as_killed_for_it",
    "containers::huge_pages_are_limited_where_the_node_can_and_refused_where_it_cannot",
    "containers::nothing_is_left_of_a_pod_that_was_removed_while_it_ran",
    "containers::requests_and_limits_become_settings_of_the_pods_and_the_containers_cgroups",
    "life::a_container_whose_shim_is_killed_is_killed_and_reported",
    "processes::containers_of_a_pod_that_shares_processes_see_and_signal_each_other",
    "security::a_privileged_container_has_the_nodes_devices_and_may_mount",
    "security::an_exec_session_runs_as_the_container_does",
    "security::root_in_a_container_cannot_raise_its_limits_or_reach_devices",
];
/// Two minutes more than a quiet machine takes.
const DEADLINE: Duration = Duration::from_secs(180);

const INIT: &str = "#!/bin/busybox sh
busybox=/bin/busybox
# The kernel's first root cannot be left by pivot_root: what follows needs one that can.
$busybox mount -t tmpfs -o size=80%,mode=755 none /newroot
for name in /*; do
  case $name in /newroot) ;; *) $busybox cp -a $name /newroot/ ;; esac
done
$busybox rm /newroot/init
exec $busybox switch_root /newroot /second
";

const SECOND: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin WEIR_REQUIRE_ROOT=1
mkdir -p /proc /sys /dev /run /root /etc
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
insmod /overlay.ko
ip link set lo up
echo 'root:x:0:0:root:/:/bin/sh' > /etc/passwd
sh /run-tests 2>&1
echo \"RESULT $?\"
poweroff -f
";

#[test]
fn containers_are_the_same_on_a_node_of_cgroup_version_2_alone() {
    if !require::root() || fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default() {
        // This node is one itself.
        return;
    }
    let kernel =
        debian::root("kernel", &["linux-image-6.12-cloud-amd64"], |deb| deb.starts_with("linux-image-6"));
    let qemu = debian::root("qemu", &["qemu-system-x86"], |_| true);
    let (kernel, qemu) = match (kernel, qemu) {
        (Ok(kernel), Ok(qemu)) => (kernel, qemu),
        // Skipped where it may be.
        (Err(error), _) | (_, Err(error)) => {
            assert!(!require::root_and(Some(format!("{error:#}"))));
            return;
        }
    };
    let directory = tempfile::tempdir().expect("a directory");
    let initrd = directory.path().join("initrd");
    fs::write(&initrd, archive(&kernel)).expect("an initial file system");
    let said = boot(&qemu, &kernel, &initrd);
    assert!(said.contains("RESULT 0") && said.contains(&format!("{} passed", TESTS.len())), "{said}");
}

fn boot(qemu: &Path, kernel: &Path, initrd: &Path) -> String {
    let mut images = entries(&kernel.join("boot")).into_iter();
    let image = images.find(|path| path.to_string_lossy().contains("vmlinuz")).expect("a kernel");
    let libraries: BTreeSet<_> = below(qemu)
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(".so"))
        .filter_map(|path| Some(path.parent()?.display().to_string()))
        .collect();
    let libraries: Vec<_> = libraries.into_iter().collect();
    let mut command = Command::new(qemu.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries.join(":")).arg(qemu.join("usr/bin/qemu-system-x86_64"));
    command.env("QEMU_MODULE_DIR", qemu.join("usr/lib/x86_64-linux-gnu/qemu"));
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(qemu.join(data));
    }
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1500"]);
    command.args(["-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1"]);
    let mut machine =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("QEMU");
    let output = machine.stdout.take().expect("its console");
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = std::io::Read::read_to_end(&mut { output }, &mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let deadline = Instant::now() + DEADLINE;
    while machine.try_wait().is_ok_and(|ended| ended.is_none()) {
        if Instant::now() > deadline {
            let _ = machine.kill();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    reading.join().expect("the console is read")
}

/// In the form that the kernel unpacks: cpio, "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
fn archive(kernel: &Path) -> Vec<u8> {
    let program = std::env::current_exe().expect("this program");
    let mut files = BTreeSet::from([program.clone(), shim_program(), PathBuf::from("/usr/bin/busybox")]);
    for program in [&program, &shim_program()] {
        let libraries = Command::new("ldd").arg(program).output().expect("ldd");
        let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
        let words = text.split_whitespace().filter(|word| word.starts_with('/'));
        files.extend(words.map(PathBuf::from));
    }
    let mut archive = Cpio::default();
    for directory in ["newroot", "tmp"] {
        archive.directory(Path::new(directory));
    }
    for file in files {
        archive.file(&file, fs::read(&file).expect("a file of this machine"), 0o755);
    }
    archive.file(Path::new("/bin/busybox"), fs::read("/usr/bin/busybox").expect("busybox-static"), 0o755);
    let module = below(&kernel.join("lib/modules"));
    let module =
        module.iter().find(|path| path.to_string_lossy().contains("/overlay.ko")).expect("overlayfs");
    let bytes = match module.extension().is_some_and(|extension| extension == "xz") {
        true => Command::new("xz").args(["-dc"]).arg(module).output().expect("xz").stdout,
        false => fs::read(module).expect("overlayfs"),
    };
    archive.file(Path::new("/overlay.ko"), bytes, 0o644);
    archive.file(Path::new("/init"), INIT.into(), 0o755);
    archive.file(Path::new("/second"), SECOND.into(), 0o755);
    let run = format!("exec {} --exact {} --test-threads 2\n", program.display(), TESTS.join(" "));
    archive.file(Path::new("/run-tests"), run.into(), 0o755);
    archive.finish()
}

#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    made: BTreeSet<PathBuf>,
}

impl Cpio {
    fn directory(&mut self, path: &Path) {
        if self.made.insert(path.to_owned()) {
            self.entry(path, 0o40755, &[]);
        }
    }

    fn file(&mut self, path: &Path, content: Vec<u8>, mode: u32) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let parents: Vec<_> = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev() {
            self.directory(parent);
        }
        self.entry(path, 0o100_000 | mode, &content);
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let name = path.to_string_lossy();
        let number = self.made.len() + self.bytes.len();
        let fields = [number, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{:08x}", field & 0xffff_ffff).bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(directory) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
