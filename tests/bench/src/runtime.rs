//! The container runtime alone, and runc on the same bundle in the same minute: no API, no image to look up, no network to
//! set up. What Weir does more than runc in that time stays in: the overlay is mounted, the bundle composed and written, the
//! record kept, and a shim is left that holds the output and collects the exit; with runc that is its caller's affair.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use weir_runtime::cgroup::QosClass;
use weir_runtime::images::LayerLimits;
use weir_runtime::{
    Config, ContainerKey, ContainerSpec, ExecSpec, ExecStdio, Image, PullPolicy, Resources, Runtime,
    SandboxSpec,
};

use crate::objects;

const POD: &str = "bench";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The program that shims are started from
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// Where the image is
    #[arg(long, value_name = "DIR")]
    image_source: PathBuf,
    /// For all state; whoever gives it removes what is left in it, were this to be killed
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// In each hierarchy; the same holds for it
    #[arg(long)]
    cgroup: String,
    #[arg(long, value_name = "FILE")]
    runc: PathBuf,
    #[arg(long)]
    rounds: u32,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
struct Round {
    create_and_start: f64,
    exec: f64,
    /// Kill, and remove all of it.
    delete: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    weir: Vec<Round>,
    runc: Vec<Round>,
}

pub(crate) fn run(options: &Options) -> Result<Measured> {
    let runtime = Runtime::open(Config {
        state_dir: options.directory.join("state"),
        cgroup_parent: format!("{}/pods", options.cgroup),
        agent_exe: options.agent.clone(),
        image_sources: vec![options.image_source.clone()],
        registries: None,
        layer_limits: LayerLimits::default(),
    })?;
    let image = runtime.images().resolve(objects::IMAGE, PullPolicy::IfNotPresent)?;
    runtime.create_sandbox(&sandbox())?;
    let measured = rounds(options, &runtime, &image);
    runtime.remove_sandbox(POD)?;
    measured
}

fn rounds(options: &Options, runtime: &Runtime, image: &Image) -> Result<Measured> {
    // The bundle that runc gets is that of a container which stays.
    let stays = container(image, u32::MAX, "8081");
    runtime.create_container(&stays)?;
    runtime.start_container(&stays.key)?;
    let bundle = options.directory.join("bundle");
    let state = options.directory.join(format!("state/pods/{POD}/{}/{}", stays.key.name, stays.key.restart));
    write_bundle(&state.join("config.json"), &bundle, &options.cgroup)?;
    let runc = Runc { program: &options.runc, root: options.directory.join("runc"), bundle };
    let mut measured = Measured { weir: Vec::new(), runc: Vec::new() };
    // Alternately, so that what else the machine does meets both; the first of each is not counted.
    for round in 0..=options.rounds {
        let (weir, runc) = (weir_round(runtime, image, round)?, runc.round()?);
        if round > 0 {
            measured.weir.push(weir);
            measured.runc.push(runc);
        }
    }
    Ok(measured)
}

fn container(image: &Image, number: u32, port: &str) -> ContainerSpec {
    let key = ContainerKey::new(POD, "main", number);
    let args = ["serve", "--port", port].map(str::to_owned).into();
    ContainerSpec { args, ..ContainerSpec::new(key, image.clone()) }
}

fn sandbox() -> SandboxSpec {
    SandboxSpec {
        uid: POD.to_owned(),
        namespace: objects::NAMESPACE.to_owned(),
        name: POD.to_owned(),
        hostname: POD.to_owned(),
        host_network: false,
        host_ipc: false,
        host_pid: false,
        share_process_namespace: false,
        user_namespace: false,
        sysctls: BTreeMap::new(),
        qos: QosClass::BestEffort,
        resources: Resources::default(),
        hosts: "127.0.0.1 localhost\n".to_owned(),
        resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
    }
}

fn weir_round(runtime: &Runtime, image: &Image, number: u32) -> Result<Round> {
    let spec = container(image, number, "8082");
    let began = Instant::now();
    runtime.create_container(&spec)?;
    runtime.start_container(&spec.key)?;
    let create_and_start = since(began);
    let began = Instant::now();
    let argv = objects::NOTHING.map(str::to_owned).into();
    let stdio = ExecStdio::default();
    let code = runtime.exec(&spec.key, ExecSpec { argv, stdio, terminal: None, timeout: None })?;
    ensure!(code == 0, "the command ended with {code}");
    let exec = since(began);
    let began = Instant::now();
    runtime.remove_container(&spec.key)?;
    Ok(Round { create_and_start, exec, delete: since(began) })
}

/// As it is, but for what two containers cannot share: the control group, and the port.
fn write_bundle(config: &Path, bundle: &Path, cgroup: &str) -> Result<()> {
    let text = fs::read_to_string(config).with_context(|| format!("read {}", config.display()))?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["linux"]["cgroupsPath"] = format!("/{cgroup}/runc").into();
    let words = config["process"]["args"].as_array_mut().context("the bundle has no arguments")?;
    for word in words.iter_mut().filter(|word| *word == "8081") {
        *word = "8083".into();
    }
    fs::create_dir_all(bundle)?;
    Ok(fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?)
}

struct Runc<'a> {
    program: &'a Path,
    root: PathBuf,
    bundle: PathBuf,
}

impl Runc<'_> {
    fn round(&self) -> Result<Round> {
        let began = Instant::now();
        let bundle = self.bundle.to_str().context("the bundle's path is not UTF-8")?;
        let started = self.run(&["create", "--bundle", bundle, POD]).and_then(|()| self.run(&["start", POD]));
        let create_and_start = since(began);
        let began = Instant::now();
        let executed = started.and_then(|()| self.run(&[&["exec", POD], &objects::NOTHING[..]].concat()));
        let exec = since(began);
        let began = Instant::now();
        let deleted = self.run(&["delete", "--force", POD]);
        executed.and(deleted)?;
        Ok(Round { create_and_start, exec, delete: since(began) })
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(&self.root).args(words).current_dir("/");
        // The container would keep whatever it inherits: what fails is told by runc's own log.
        let log = self.bundle.join("runc.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let status = command.status().with_context(|| format!("run {command:?}"))?;
        if !status.success() {
            bail!("{command:?} ended with {status}: {}", fs::read_to_string(&log)?.trim());
        }
        Ok(())
    }
}

fn since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
