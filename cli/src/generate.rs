//! What is made of this program's own definition: manual pages, and the plugin's entry in krew's index.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Subcommand};
use sha2::{Digest as _, Sha256};

use crate::args::Cli;
use crate::exit::{Failure, chain};
use crate::output::print;

/// For which systems there are archives, as krew and as Rust call them.
const PLATFORMS: [(&str, &str); 4] = [("linux", "amd64"), ("linux", "arm64"), ("darwin", "amd64"), ("darwin", "arm64")];

#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// Write a manual page for each subcommand
    Man {
        /// Into this folder
        folder: PathBuf,
    },
    /// Print the manifest for krew's index
    Krew(KrewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KrewArgs {
    /// The folder of the archives, each kubectl-leasehold-OS-ARCH.tar.gz with both programs and LICENSE in it
    folder: PathBuf,
    /// Where they can be downloaded
    #[arg(long, value_name = "URL")]
    base: String,
}

pub(crate) fn generate(what: &Generate) -> Result<u8, Failure> {
    match what {
        Generate::Man { folder } => man(folder)?,
        Generate::Krew(KrewArgs { folder, base }) => print(&krew(folder, base)?)?,
    }
    Ok(0)
}

fn man(folder: &Path) -> Result<(), Failure> {
    let written = fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder));
    written.map_err(|error| Failure::usage(format!("cannot write to {}: {}", folder.display(), chain(&error))))
}

fn krew(folder: &Path, base: &str) -> Result<String, Failure> {
    let mut text = format!(
        "apiVersion: krew.googlecontainertools.github.com/v1alpha2\n\
         kind: Plugin\n\
         metadata:\n  name: leasehold\n\
         spec:\n\
         \x20 version: v{}\n\
         \x20 homepage: {}\n\
         \x20 shortDescription: Run a command under a lock kept in the API server\n\
         \x20 description: |\n\
         \x20   Distributed locks, semaphores, read-write locks and leader election that\n\
         \x20   live in Leases: run a command while holding one, elect a leader, list who\n\
         \x20   holds what and who waits. Neither an operator nor custom resources are\n\
         \x20   needed.\n\
         \x20 platforms:\n",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_REPOSITORY"),
    );
    let mut found = 0;
    for (os, arch) in PLATFORMS {
        let name = format!("kubectl-leasehold-{os}-{arch}.tar.gz");
        let path = folder.join(&name);
        if !path.exists() {
            continue;
        }
        let bytes =
            fs::read(&path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        let sum = Sha256::digest(&bytes).iter().fold(String::new(), |mut sum, byte| {
            let _ = write!(sum, "{byte:02x}");
            sum
        });
        let base = base.trim_end_matches('/');
        let _ = write!(
            text,
            "  - selector:\n      matchLabels:\n        os: {os}\n        arch: {arch}\n    uri: {base}/{name}\n    \
             sha256: {sum}\n    bin: kubectl-leasehold\n"
        );
        found += 1;
    }
    if found == 0 {
        let names = PLATFORMS.map(|(os, arch)| format!("kubectl-leasehold-{os}-{arch}.tar.gz")).join(", ");
        return Err(Failure::usage(format!("none of {names} is in {}", folder.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_for_krew_has_what_krew_asks_for() {
        let folder = std::env::temp_dir().join(format!("leasehold-krew-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(krew(&folder, "https://x").unwrap_err().message.contains("none of kubectl-leasehold-linux-amd64"));
        fs::write(folder.join("kubectl-leasehold-linux-amd64.tar.gz"), "abc").unwrap();
        let text = krew(&folder, "https://example.com/v1/").unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let manifest: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(manifest["kind"], "Plugin");
        assert_eq!(manifest["metadata"]["name"], "leasehold");
        let spec = &manifest["spec"];
        // As krew's own validation has it: a semantic version with a v, one line of at most 50 characters, a URI and a sum
        // of 64 digits for each platform.
        let version = spec["version"].as_str().unwrap().strip_prefix('v').unwrap();
        assert_eq!(version.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3);
        let short = spec["shortDescription"].as_str().unwrap();
        assert!(short.len() <= 50 && !short.ends_with('.') && !short.contains('\n'), "{short}");
        assert!(spec["homepage"].as_str().unwrap().starts_with("https://"));
        assert!(!spec["description"].as_str().unwrap().is_empty());
        let [platform] = &spec["platforms"].as_array().unwrap()[..] else { panic!("{text}") };
        assert_eq!(platform["selector"]["matchLabels"]["os"], "linux");
        assert_eq!(platform["uri"], "https://example.com/v1/kubectl-leasehold-linux-amd64.tar.gz");
        assert_eq!(platform["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(platform["bin"], "kubectl-leasehold");
    }

    #[test]
    fn every_subcommand_has_a_manual_page() {
        let folder = std::env::temp_dir().join(format!("leasehold-man-{}", std::process::id()));
        man(&folder).unwrap();
        let run = fs::read_to_string(folder.join("kubectl-leasehold-run.1")).unwrap();
        let pages = fs::read_dir(&folder).unwrap().count();
        fs::remove_dir_all(&folder).unwrap();
        assert!(run.contains("max\\-hold") && run.contains("first come first served"), "{run}");
        assert!(pages > 10, "{pages}");
    }
}
