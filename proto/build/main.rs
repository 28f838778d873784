//! Generates the crate's types from the `.proto` files: prost structs, tonic services, JSON and the table of kinds.
//!
//! `protox` compiles the files without protoc. The custom options of `weir/options.proto` are lost in prost's own
//! descriptors, so they are read from a reflection pool of the same compilation.

#![expect(clippy::print_stdout, reason = "how a build script talks to cargo")]

mod json;
mod kinds;
mod names;
mod schema;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// In Rust these are types of the crate, not messages.
const EXTERN: [(&str, &str); 2] =
    [(".k8s.meta.v1.Quantity", "crate::Quantity"), (".k8s.meta.v1.IntOrString", "crate::IntOrString")];

/// Large and rarely set: a pointer in their owner instead of room for all that they could hold. A pod is in memory several
/// times over in a control plane.
const BOXED: [(&str, &[&str]); 4] = [
    ("Container", IN_CONTAINERS),
    ("EphemeralContainer", IN_CONTAINERS),
    (
        "Volume",
        &[
            "ephemeral",
            "csi",
            "nfs",
            "aws_elastic_block_store",
            "azure_disk",
            "azure_file",
            "cephfs",
            "cinder",
            "fc",
            "flex_volume",
            "flocker",
            "gce_persistent_disk",
            "git_repo",
            "glusterfs",
            "iscsi",
            "photon_persistent_disk",
            "portworx_volume",
            "quobyte",
            "rbd",
            "scale_io",
            "storageos",
            "vsphere_volume",
        ],
    ),
    ("VolumeProjection", &["cluster_trust_bundle", "pod_certificate"]),
];
const IN_CONTAINERS: &[&str] =
    &["liveness_probe", "readiness_probe", "startup_probe", "lifecycle", "security_context"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    for folder in ["k8s", "net", "weir"] {
        println!("cargo:rerun-if-changed={folder}");
        collect(&root.join(folder), &mut files)?;
    }
    println!("cargo:rerun-if-changed=build");
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let mut set = compiler.file_descriptor_set();
    // The options are for this build alone.
    set.file.retain(|file| !matches!(file.package(), "google.protobuf" | "weir"));

    let mut prost = prost_build::Config::new();
    prost
        .btree_map(["."])
        .message_attribute(".k8s.meta.v1.Time", "#[derive(PartialOrd, Ord)]")
        .message_attribute(".k8s.meta.v1.MicroTime", "#[derive(PartialOrd, Ord)]")
        .service_generator(tonic_prost_build::configure().build_transport(false).service_generator());
    for (message, rust) in EXTERN {
        prost.extern_path(message, rust);
    }
    for (message, fields) in BOXED {
        for field in fields {
            prost.boxed(format!(".k8s.core.v1.{message}.{field}"));
        }
    }
    prost.compile_fds(set)?;

    let pool = compiler.descriptor_pool();
    fs::write(out.join("json.rs"), json::generate(&pool)?)?;
    fs::write(out.join("kinds.rs"), kinds::generate(&pool)?)?;
    fs::write(out.join("schema.rs"), schema::generate(&pool)?)?;
    Ok(())
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            into.push(path);
        }
    }
    Ok(())
}
