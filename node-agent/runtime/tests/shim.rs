//! What the tests give as the agent's program: shim, sandbox helper and exec helper, as every agent's program is.
//!
//! With the argument `agent` it is an agent too, one that runs a container and then waits to be killed; with `clone` a
//! program that tries out a seccomp profile; with `pull` one that pulls an image and may be killed meanwhile.

use std::error::Error;
use std::io::{self, Read, Write};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::seccomp::initialize_seccomp;
use nix::errno::Errno;
use nix::libc;
use serde::Deserialize;
use weir_runtime::images::RegistrySettings;
use weir_runtime::{Config, ContainerSpec, ImageStore, PullPolicy, Runtime, SandboxSpec};

#[derive(Deserialize)]
struct Request {
    state_dir: std::path::PathBuf,
    cgroup_parent: String,
    sandbox: SandboxSpec,
    /// Containers that cannot be made.
    #[serde(default)]
    failing: Vec<ContainerSpec>,
    container: ContainerSpec,
}

fn main() -> Result<(), Box<dyn Error>> {
    weir_runtime::shim::dispatch();
    match std::env::args().nth(1).as_deref() {
        Some("agent") => agent(),
        Some("clone") => clone(),
        Some("pull") => pull(),
        _ => Err("neither agent nor clone nor pull".into()),
    }
}

/// Under the seccomp profile of a bundle, makes a child with each of the flags given; prints the errors' numbers.
fn clone() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(2);
    let spec = Spec::load(arguments.next().ok_or("no bundle")?)?;
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()).ok_or("no profile")?;
    let flags = arguments.map(|flags| flags.parse::<u64>()).collect::<Result<Vec<_>, _>>()?;
    initialize_seccomp(profile)?;
    for flags in flags {
        // SAFETY: as fork: no memory is shared, and the child does nothing but exit.
        let errno = match unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD as u64, 0, 0, 0, 0) }
        {
            // SAFETY: ends the child without running anything of the parent's.
            0 => unsafe { libc::_exit(0) },
            -1 => Errno::last_raw(),
            _ => 0,
        };
        writeln!(io::stdout(), "{errno}")?;
    }
    Ok(())
}

/// An image into a store, by plain HTTP where the configuration says so.
fn pull() -> Result<(), Box<dyn Error>> {
    let [image, store, config_dir] = &std::env::args().skip(2).collect::<Vec<_>>()[..] else {
        return Err("pull IMAGE STORE CONFIG".into());
    };
    let settings = RegistrySettings { config_dir: Some(config_dir.into()), ..RegistrySettings::default() };
    let store = ImageStore::open(store.into(), Vec::new())?.with_registries(settings);
    store.resolve(image, PullPolicy::Always)?;
    Ok(())
}

fn agent() -> Result<(), Box<dyn Error>> {
    let request: Request = serde_json::from_str(&std::env::args().nth(2).ok_or("no request")?)?;
    let runtime = Runtime::open(Config {
        state_dir: request.state_dir,
        cgroup_parent: request.cgroup_parent,
        agent_exe: std::env::current_exe()?,
        image_sources: Vec::new(),
        registries: None,
        layer_limits: Default::default(),
    })?;
    let dumpable = nix::sys::prctl::get_dumpable()?;
    runtime.create_sandbox(&request.sandbox)?;
    for spec in &request.failing {
        if runtime.create_container(spec).is_ok() {
            return Err(format!("{} could be made", spec.key).into());
        }
    }
    runtime.create_container(&request.container)?;
    runtime.start_container(&request.container.key)?;
    if nix::sys::prctl::get_dumpable()? != dumpable {
        return Err("making containers changed whether this process is dumpable".into());
    }
    io::stdout().write_all(b"started")?;
    io::stdout().flush()?;
    // Until whoever started this process closes its standard input, or kills it.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
