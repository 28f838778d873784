//! `weir-control store …`: backs up, restores, migrates and verifies what the control plane keeps.
//!
//! A backup is taken of a running control plane through its API (`--kubeconfig`), of the embedded store of one that is not
//! running (`--data-dir`), or of etcd (`--etcd-endpoints`). What is restored or migrated to must be empty.

#![expect(clippy::print_stdout, reason = "what a command did is its output")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use futures::StreamExt;
use futures::stream::BoxStream;
use weir_api::pki;
use weir_client::Client;
use weir_proto::weir::v1::BackupRequest;
use weir_store::backup::{self, BackupError, PartFile, Reader, Summary};
use weir_store::{Store, embedded, etcd};

use crate::config::Etcd;

/// How often a backup is begun anew because the compaction overtook it.
const ATTEMPTS: usize = 3;

/// Backs up, restores, migrates and verifies stores.
#[derive(Debug, Parser)]
#[command(name = "weir-control store", bin_name = "weir-control store")]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write everything in the store, at one revision, to a new file
    Backup {
        file: PathBuf,
        /// Ask a running control plane, as the administrator of this kubeconfig
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        #[command(flatten)]
        store: Place,
    },
    /// Fill an empty store with what a backup holds
    Restore {
        file: PathBuf,
        #[command(flatten)]
        store: Place,
    },
    /// Move from the embedded store of a control plane that is not running to an empty etcd
    Migrate {
        /// The control plane's data directory
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        #[command(flatten)]
        etcd: Etcd,
    },
    /// Check that a backup is whole, and say what is in it
    Verify { file: PathBuf },
}

/// Which store is meant.
#[derive(Debug, Args)]
struct Place {
    /// The embedded store in this data directory; its control plane must not be running
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: Etcd,
}

/// The arguments behind `store`, if that is what is asked for. The control plane's own flags never begin like that.
pub(crate) fn asked_for() -> Option<Vec<OsString>> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == "store").then(|| arguments.collect())
}

pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let command = Command::parse_from([OsString::from("weir-control store")].into_iter().chain(arguments));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(command.verb)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Backup { file, kubeconfig, store } => {
            let source = Source::open(kubeconfig.as_deref(), &store).await?;
            let summary = save(&source, &file).await?;
            println!("{}: {}", file.display(), describe(&summary));
        }
        Verb::Restore { file, store } => {
            let embedded = match (store.data_dir, store.etcd.etcd_endpoints.is_empty()) {
                (Some(dir), true) => Some(dir),
                (None, false) => None,
                _ => bail!("name one store to restore to: --data-dir or --etcd-endpoints"),
            };
            let backup = read(&file).await?;
            let revision = match embedded {
                Some(dir) => {
                    make_private(&dir)?;
                    let path = dir.join("store");
                    tokio::task::spawn_blocking(move || embedded::restore(path, backup)).await??
                }
                None => restore_to_etcd(&store.etcd, backup).await?,
            };
            println!("restored {}; the store goes on from revision {revision}", file.display());
        }
        Verb::Migrate { data_dir, etcd } => migrate(&data_dir, &etcd).await?,
        Verb::Verify { file } => {
            let read = file.clone();
            let summary = tokio::task::spawn_blocking(move || Reader::open(&read)?.finish()).await??;
            println!("{}: {}", file.display(), describe(&summary));
        }
    }
    Ok(())
}

enum Source {
    Api(Client),
    Store(Arc<dyn Store>),
}

impl Source {
    async fn open(kubeconfig: Option<&Path>, store: &Place) -> Result<Self> {
        match (kubeconfig, &store.data_dir, store.etcd.etcd_endpoints.is_empty()) {
            (Some(path), None, true) => {
                Ok(Source::Api(Client::new(&weir_client::Config::from_kubeconfig(path, None)?)?))
            }
            (None, Some(dir), true) => Ok(Source::Store(open_embedded(dir).await?)),
            (None, None, false) => Ok(Source::Store(Arc::new(store.etcd.connect().await?))),
            _ => bail!("name one store to back up: --kubeconfig, --data-dir or --etcd-endpoints"),
        }
    }

    async fn stream(&self) -> Result<BoxStream<'static, Result<Vec<u8>, Broken>>> {
        Ok(match self {
            Source::Store(store) => backup::stream(store.clone())
                .map(|chunk| {
                    chunk.map(Vec::from).map_err(|error| Broken {
                        overtaken: matches!(error, BackupError::Overtaken { .. }),
                        error: error.into(),
                    })
                })
                .boxed(),
            Source::Api(client) => {
                let told = client.clone();
                let broken = move |status| {
                    let error = told.error("back up the store", status);
                    Broken { overtaken: error.is_gone(), error: error.into() }
                };
                let answer = client.maintenance().backup(BackupRequest {}).await;
                let chunks = answer.map_err(|status| broken(status).error)?.into_inner();
                chunks.map(move |chunk| chunk.map(|chunk| chunk.data).map_err(&broken)).boxed()
            }
        })
    }
}

/// Why a stream ended early.
struct Broken {
    overtaken: bool,
    error: anyhow::Error,
}

/// Without a file under its name unless all of it is there.
async fn save(source: &Source, path: &Path) -> Result<Summary> {
    for attempt in 1.. {
        let mut file = PartFile::create(path)?;
        let mut chunks = source.stream().await?;
        let broken = loop {
            match chunks.next().await {
                Some(Ok(chunk)) => file.write(&chunk)?,
                Some(Err(broken)) => break Some(broken),
                None => break None,
            }
        };
        match broken {
            None => return Ok(tokio::task::spawn_blocking(move || file.finish()).await??),
            Some(broken) if broken.overtaken && attempt < ATTEMPTS => {}
            Some(broken) => return Err(broken.error),
        }
    }
    Err(anyhow!("the store was compacted each time it was read"))
}

async fn open_embedded(data_dir: &Path) -> Result<Arc<dyn Store>> {
    let path = data_dir.join("store");
    if !path.exists() {
        bail!("there is no embedded store in {}", data_dir.display());
    }
    let opened = tokio::task::spawn_blocking(move || embedded::open(path)).await?;
    let store =
        opened.context("open the embedded store (a running control plane is backed up by --kubeconfig)")?;
    // A store from before it held the authority gets it now: a backup without it would be of another cluster.
    pki::share(&store, data_dir).await?;
    Ok(Arc::new(store))
}

async fn read(file: &Path) -> Result<Reader> {
    let file = file.to_owned();
    Ok(tokio::task::spawn_blocking(move || Reader::verified(&file)).await??)
}

async fn restore_to_etcd(to: &Etcd, backup: Reader) -> Result<i64> {
    Ok(etcd::restore(&to.etcd_endpoints, to.tls()?.as_ref(), backup).await?)
}

async fn migrate(data_dir: &Path, to: &Etcd) -> Result<()> {
    if to.etcd_endpoints.is_empty() {
        bail!("--etcd-endpoints must say where to");
    }
    let store = open_embedded(data_dir).await?;
    let revision = store.get("/registry/").await?.revision;
    let file = data_dir.join(format!("store-{revision}.backup"));
    // One that an earlier attempt made of the same revision is as good.
    if !file.exists() {
        save(&Source::Store(store.clone()), &file).await?;
    }
    let restored = restore_to_etcd(to, read(&file).await?).await?;
    drop(store);
    // Nobody shall go on with it by mistake.
    let former = data_dir.join("store.migrated");
    fs::rename(data_dir.join("store"), &former).with_context(|| format!("rename to {}", former.display()))?;
    println!(
        "migrated to etcd at {}, which goes on from revision {restored}; the former store is {}, its backup {}",
        to.etcd_endpoints.join(", "),
        former.display(),
        file.display()
    );
    Ok(())
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create the data directory {}", dir.display()))
}

fn describe(summary: &Summary) -> String {
    let Summary { header, keys, leases, bytes } = summary;
    format!(
        "{keys} keys and {leases} leases at revision {}, taken at {} s since the epoch, {bytes} bytes, whole",
        header.revision, header.taken
    )
}
