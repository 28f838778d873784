//! The same tests once more on a node of cgroup version 2 alone: in a virtual machine, with a kernel of Debian's that has no
//! version 1 mounted. The machine is emulated, so that any host will do; it has no disk and no network, only this program,
//! its libraries and busybox in memory.
//!
//! It is as plain as a machine can be: one old processor, and a clock that counts instructions. So it does the same each time,
//! and a host that is slow or busy makes it take longer, but nothing in it late.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
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
    "security::an_exec_session_is_bound_by_all_that_binds_the_container",
    "security::an_exec_session_runs_as_the_container_does",
    "security::each_guard_of_devices_holds_without_the_other",
    "security::root_in_a_container_cannot_raise_its_limits_or_reach_devices",
];
/// Of the whole test: half a minute before nextest ends it, and would say less. A quiet machine takes 40 s.
const DEADLINE: Duration = Duration::from_secs(270);

/// Several processors or threads would bring races of the emulator's own, and newer models what the kernel does for their
/// sake. A nanosecond of the machine's is an instruction, and when nothing is to be done its clock is put forward.
const PROCESSOR: [&str; 10] = [
    "-accel",
    "tcg,thread=single",
    "-cpu",
    "qemu64",
    "-smp",
    "1",
    "-icount",
    "shift=0,sleep=off",
    "-rtc",
    "clock=vm",
];
/// A kernel that goes wrong ends the machine at once.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr nowatchdog";
/// What is shown of the console when something went wrong.
const LINES: usize = 60;

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
    let began = Instant::now();
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
    let complaints = directory.path().join("complaints");
    let mut machine = machine(&qemu, &kernel, &initrd);
    let stderr = File::create(&complaints).expect("a file");
    let mut machine = machine.stdout(Stdio::piped()).stderr(stderr).spawn().expect("QEMU");
    let mut console = machine.stdout.take().expect("its console");
    let (end, ended) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = console.read_to_end(&mut said);
        // Nobody hears it when time is up.
        let _ = end.send(());
        read.map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let in_time = ended.recv_timeout(DEADLINE.saturating_sub(began.elapsed())).is_ok();
    let _ = machine.kill();
    machine.wait().expect("the machine's end");
    let said = reading.join().expect("the reader").expect("the console is read");
    let complaints = fs::read_to_string(complaints).expect("what QEMU says");
    judge(&said, in_time).unwrap_or_else(|problem| panic!("{problem}\n{complaints}"));
}

fn machine(qemu: &Path, kernel: &Path, initrd: &Path) -> Command {
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
    command.args(PROCESSOR).args(["-m", "1500"]);
    command.args(["-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initrd).args(["-append", KERNEL]);
    command.stdin(Stdio::null());
    command
}

/// What the console says of the tests: when something went wrong, who did it, and the end.
fn judge(said: &str, in_time: bool) -> Result<(), String> {
    let lines: Vec<_> = said.lines().collect();
    let has = |words: &str| lines.iter().any(|line| line.contains(words));
    if has("RESULT 0") && has(&format!("{} passed", TESTS.len())) {
        return Ok(());
    }
    // The kernel's lines begin with the time.
    let crashed = |line: &&&str| {
        line.starts_with('[')
            && ["Kernel panic", "Oops", "BUG:", "protection fault"].iter().any(|w| line.contains(w))
    };
    let failed: Vec<_> =
        lines.iter().filter(|line| line.starts_with("test ") && line.ends_with("FAILED")).collect();
    let what = if let Some(crash) = lines.iter().find(crashed) {
        format!("the machine's own kernel crashed, no test: {crash}")
    } else if !failed.is_empty() {
        format!("{} of the tests in the machine failed: {failed:?}", failed.len())
    } else if has("RESULT") {
        format!("the machine did not run the {} tests that it should", TESTS.len())
    } else if in_time {
        "the machine ended before its tests did".to_owned()
    } else {
        format!("the machine was not done within {DEADLINE:?}")
    };
    let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
    Err(format!("{what}\nthe last it said:\n{end}"))
}

#[test]
fn a_crash_of_the_machine_is_told_from_a_failure_in_it() {
    let passed = format!("test result: ok. {} passed; 0 failed\nRESULT 0\n", TESTS.len());
    assert_eq!(judge(&passed, true), Ok(()));
    for (said, told) in [
        (
            "[    2.2] Oops: 0000 [#1]\n[    2.2] Kernel panic - not syncing: Fatal exception\n",
            "kernel crashed",
        ),
        ("test a::b ... FAILED\ntest result: FAILED.\nRESULT 101\n", "1 of the tests in the machine failed"),
        ("test result: ok. 0 passed; 0 failed\nRESULT 0\n", "did not run the"),
        ("running 10 tests\ntest a::b ... ok\n", "ended before its tests"),
    ] {
        let noise = "noise\n".repeat(1000);
        let problem = judge(&format!("{noise}{said}"), true).expect_err("it went wrong");
        assert!(problem.contains(told) && problem.ends_with(said.trim_end()), "{problem}");
        assert!(problem.lines().count() < 70, "only the end is shown");
    }
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
    let run = format!("exec {} --exact {} --test-threads 1\n", program.display(), TESTS.join(" "));
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
