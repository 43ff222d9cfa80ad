//! An image of one layer as an OCI image layout.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::dockerfile::Stage;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes the layout into a folder, in the place of what was there, and returns the digest of the image.
pub(crate) fn write(folder: &Path, stage: &Stage, architecture: &str, program: &[u8], tag: &str) -> Result<String> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let blob = |kind: &str, bytes: &[u8]| -> Result<Value> {
        let digest = sha256(bytes);
        let name = digest.trim_start_matches("sha256:");
        fs::write(blobs.join(name), bytes).with_context(|| format!("cannot write into {}", blobs.display()))?;
        Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
    };

    let layer = layer(&stage.program, program)?;
    let mut packed = GzBuilder::new().write(Vec::new(), Compression::default());
    packed.write_all(&layer)?;
    let ports: Map<String, Value> = stage.ports.iter().map(|port| (port.clone(), json!({}))).collect();
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": stage.user,
            "Entrypoint": stage.entrypoint,
            "ExposedPorts": ports,
            "Labels": stage.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [sha256(&layer)] },
    });
    let config = blob(CONFIG, &serde_json::to_vec(&config)?)?;
    let layer = blob(LAYER, &packed.finish()?)?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

/// Packs a layout into one file.
pub(crate) fn archive(folder: &Path, file: &Path) -> Result<()> {
    let mut archive =
        tar::Builder::new(File::create(file).with_context(|| format!("cannot write {}", file.display()))?);
    archive.mode(tar::HeaderMode::Deterministic);
    let mut blobs: Vec<_> =
        fs::read_dir(folder.join("blobs/sha256"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    blobs.sort();
    archive.append_path_with_name(folder.join("oci-layout"), "oci-layout")?;
    archive.append_path_with_name(folder.join("index.json"), "index.json")?;
    for blob in blobs {
        let name = Path::new("blobs/sha256").join(blob);
        archive.append_path_with_name(folder.join(&name), name)?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(())
}

/// The program alone, as a tar: of nobody, from no time.
fn layer(place: &str, program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_ustar();
    head.set_size(program.len().try_into()?);
    head.set_mode(0o755);
    head.set_uid(0);
    head.set_gid(0);
    head.set_mtime(0);
    head.set_entry_type(tar::EntryType::Regular);
    layer.append_data(&mut head, place.trim_start_matches('/'), program)?;
    Ok(layer.into_inner()?)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage { program: "/p".to_owned(), user: "1:1".to_owned(), ..Stage::default() };
        let write = |name: &str, program: &[u8]| {
            let (to, file) = (folder.path().join(name), folder.path().join(format!("{name}.tar")));
            let digest = super::write(&to, &stage, "amd64", program, "v1").unwrap();
            archive(&to, &file).unwrap();
            (digest, fs::read(file).unwrap())
        };
        let first = write("a", b"program");
        assert_eq!(first, write("b", b"program"));
        assert_eq!(first, write("b", b"program"), "what was there is in the way");
        assert_ne!(first.0, write("c", b"another").0);
        assert_eq!(sha256(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
