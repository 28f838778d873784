//! Seccomp profiles: the `RuntimeDefault` one, and files of the node.
//!
//! The default follows the published default profiles of Docker and containerd: calls not named fail with EPERM; named are
//! those that ordinary programs use and that do not reach beyond the container. Some are open only to containers that were
//! given the capability which the kernel asks for. `clone3` fails with ENOSYS, so that C libraries fall back to `clone`,
//! whose flags a filter can read.

use std::fs;
use std::path::Path;

use libcontainer::oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::{BundleError, capabilities};
use crate::container::{Seccomp, Security};

const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup
    io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
    lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek
    lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
    mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync
    munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv
    preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
    process_vm_readv process_vm_writev ptrace";

/// Calls open to containers with a capability.
const BY_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
];

/// The flags of `clone` that make namespaces.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;
const AF_VSOCK: u64 = 40;
const ENOSYS: u32 = 38;

/// The profile as `linux.seccomp`, `None` for an unconfined container.
pub(super) fn profile(security: &Security) -> Result<Option<Value>, BundleError> {
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(runtime_default(&capabilities::of(security)?))),
        Seccomp::Localhost(path) => from_file(path).map(Some),
    }
}

fn runtime_default(capabilities: &[String]) -> Value {
    let names = |words: &str| -> Vec<String> { words.split_whitespace().map(str::to_owned).collect() };
    let allow = |names: Vec<String>, arguments: Value| json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": arguments });
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);

    let mut syscalls = vec![allow(names(ALLOWED), json!([]))];
    for (capability, calls) in BY_CAPABILITY {
        if has(capability) {
            syscalls.push(allow(names(calls), json!([])));
        }
    }
    // PER_LINUX, PER_LINUX32, UNAME26 with either, and the question which it is.
    for personality in [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff_u64] {
        let is = json!([{ "index": 0, "value": personality, "op": "SCMP_CMP_EQ" }]);
        syscalls.push(allow(names("personality"), is));
    }
    let not_vsock = json!([{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE" }]);
    syscalls.push(allow(names("socket"), not_vsock));
    if !has("CAP_SYS_ADMIN") {
        let no_namespace = json!([masked_equal(0, NAMESPACE_FLAGS, 0)]);
        syscalls.push(allow(names("clone"), no_namespace));
        syscalls.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(),
        "syscalls": syscalls,
    })
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

/// `argument & mask == value`. The specification has the mask in `value` and the comparand in `valueTwo`; libcontainer
/// 0.7.0 takes them the other way round.
fn masked_equal(index: usize, mask: u64, value: u64) -> Value {
    json!({ "index": index, "value": value, "valueTwo": mask, "op": "SCMP_CMP_MASKED_EQ" })
}

fn from_file(path: &Path) -> Result<Value, BundleError> {
    let bad = |problem: String| BundleError::BadSeccomp { path: path.to_owned(), problem };
    let text = fs::read(path).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let mut profile: Value = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    for syscall in profile["syscalls"].as_array_mut().into_iter().flatten() {
        if syscall["action"] == "SCMP_ACT_NOTIFY" {
            return Err(bad("SCMP_ACT_NOTIFY is not supported".to_owned()));
        }
        for argument in syscall["args"].as_array_mut().into_iter().flatten() {
            if argument["op"] == "SCMP_CMP_MASKED_EQ" {
                let index = usize::try_from(argument["index"].as_u64().unwrap_or(0)).unwrap_or(0);
                let mask = argument["value"].as_u64().unwrap_or(0);
                *argument = masked_equal(index, mask, argument["valueTwo"].as_u64().unwrap_or(0));
            }
        }
    }
    serde_json::from_value::<LinuxSeccomp>(profile.clone()).map_err(|error| bad(error.to_string()))?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_well_formed_and_opens_up_by_capability() {
        let opened = |profile: &Value, call: &str| {
            let rules = profile["syscalls"].as_array().expect("a list").iter();
            let mut rules =
                rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"] == json!([]));
            rules.any(|rule| rule["names"].as_array().is_some_and(|names| names.contains(&json!(call))))
        };
        let plain = runtime_default(&[]);
        serde_json::from_value::<LinuxSeccomp>(plain.clone()).expect("a profile");
        assert!(opened(&plain, "openat") && !opened(&plain, "mount") && !opened(&plain, "clone"));
        let admin = runtime_default(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(opened(&admin, "mount") && opened(&admin, "clone"));
    }
}
