//! What the API server says it was asked, by whom and when: so requests are counted in the same way for every peer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// The audit log. A request is written down when it has ended, and says when it came: so watches are counted too, once
/// whoever watched is gone.
pub(crate) struct Audit {
    folder: PathBuf,
    /// How much of each file has been read, by its inode: the API server starts a new file now and then.
    read: BTreeMap<u64, u64>,
    /// When requests came, in microseconds, by user.
    came: BTreeMap<String, Vec<i64>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    user: User,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

impl Audit {
    pub(crate) fn new(log: &Path) -> Result<Self> {
        let folder = log.parent().context("a folder")?.to_owned();
        Ok(Self { folder, read: BTreeMap::new(), came: BTreeMap::new() })
    }

    /// Reads what has been written since the last time.
    pub(crate) fn read(&mut self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with("audit") || path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let mut file = File::open(&path)?;
            let inode = file.metadata()?.ino();
            let from = self.read.entry(inode).or_default();
            file.seek(SeekFrom::Start(*from))?;
            let (mut lines, mut line) = (BufReader::new(file), String::new());
            // The last line may be half written: it is read the next time.
            while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
                *from += u64::try_from(line.len())?;
                let event: Event = serde_json::from_str(&line)?;
                let at = event.request_received_timestamp.as_microsecond();
                match self.came.get_mut(&event.user.username) {
                    Some(came) => came.push(at),
                    None => drop(self.came.insert(event.user.username, vec![at])),
                }
                line.clear();
            }
            // One that is full, and was moved aside.
            if name != "audit.log" {
                fs::remove_file(&path)?;
                // The next file may get the same inode.
                self.read.remove(&inode);
            }
        }
        Ok(())
    }

    /// How many requests of this user came in this time.
    pub(crate) fn count(&self, user: &str, from: Timestamp, to: Timestamp) -> u64 {
        let time = from.as_microsecond()..to.as_microsecond();
        let came = self.came.get(user).map_or(&[][..], Vec::as_slice);
        came.iter().filter(|at| time.contains(at)).count() as u64
    }

    /// Forgets what has been counted.
    pub(crate) fn forget(&mut self) {
        self.came.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_from_its_beginning_whatever_became_of_the_one_before() {
        let folder = std::env::temp_dir().join(format!("audit-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = folder.join("audit.log");
        let mut audit = Audit::new(&log).unwrap();
        let event = r#"{"user":{"username":"a"},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z"}"#;
        for round in 1..=5 {
            fs::write(&log, format!("{event}\n{event}\n")).unwrap();
            audit.read().unwrap();
            fs::rename(&log, folder.join(format!("audit-{round}.log"))).unwrap();
            audit.read().unwrap();
            let all = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
            assert_eq!((audit.count("a", all.0, all.1), audit.read.len()), (2 * round, 0));
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
