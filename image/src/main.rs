//! Writes the operator's image as an OCI layout, without Docker.
//!
//! What is in the image and how it runs is read from the last stage of the Dockerfile. The same program always gives the
//! same bytes: there is no time in it.

#![deny(unsafe_code)]

mod dockerfile;
mod elf;
mod layout;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

/// Writes the operator's image as an OCI layout: a folder, and the same as an archive.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program, linked statically.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// The Dockerfile whose last stage tells the rest.
    #[arg(long, value_name = "FILE", default_value = "Dockerfile")]
    dockerfile: PathBuf,
    /// Where to write the folder oci and the archive leasehold-operator.oci.tar. What is there is replaced.
    #[arg(long, value_name = "FOLDER", default_value = "target/image")]
    out: PathBuf,
    /// What the image is called in the layout.
    #[arg(long, value_name = "TAG", default_value = concat!("v", env!("CARGO_PKG_VERSION")))]
    tag: String,
}

fn main() -> ExitCode {
    match write(&Arguments::parse()) {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("leasehold-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(arguments: &Arguments) -> Result<String> {
    let Arguments { program, dockerfile, out, tag } = arguments;
    let shown = program.display();
    let text = fs::read_to_string(dockerfile).with_context(|| format!("cannot read {}", dockerfile.display()))?;
    let stage = dockerfile::last_stage(&text).with_context(|| format!("in {}", dockerfile.display()))?;
    let binary = fs::read(program).with_context(|| format!("cannot read {shown}"))?;
    let architecture = elf::static_architecture(&binary).with_context(|| format!("{shown} cannot be in the image"))?;
    let folder = out.join("oci");
    let digest = layout::write(&folder, &stage, architecture, &binary, tag)?;
    let archive = out.join("leasehold-operator.oci.tar");
    layout::archive(&folder, &archive)?;
    Ok(format!("{} linux/{architecture} {digest}", archive.display()))
}
