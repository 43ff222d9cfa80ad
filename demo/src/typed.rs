//! Command lines as somebody would type them: each is shown, and run just so by a shell.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_testkit::{Process, Program, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Somebody at a shell.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    folder: PathBuf,
    kubeconfig: PathBuf,
    path: OsString,
}

impl Shell {
    /// In this folder, as who this kubeconfig says. In `programs` is what is found by its name.
    pub(crate) fn new(folder: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>, programs: &Path) -> Self {
        let mut path = programs.as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Self { folder: folder.into(), kubeconfig: kubeconfig.into(), path }
    }

    fn program(&self, line: &str) -> Program {
        let program = Program::new("/bin/sh").args(["-c", line]).current_dir(&self.folder);
        program.env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path).env_remove("LEASEHOLD_NAME").named(line)
    }

    /// Types a line and shows what it prints. It has to end with this exit code.
    pub(crate) async fn run(&self, line: &str, code: i32) -> Result<String> {
        println!("$ {line}");
        let mut process = self.program(line).start()?;
        let status = process.wait_exit(SOON).await?;
        let output = process.output();
        for line in output.lines() {
            println!("    {line}");
        }
        if code != 0 {
            println!("    (exit code {code})");
        }
        ensure!(status.code() == Some(code), "CHECK FAILED: `{line}` ended with {status} instead of {code}");
        Ok(output)
    }

    /// Types a line again and again until what it prints is as wanted, and shows that.
    pub(crate) async fn until(&self, line: &str, wanted: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        println!("$ {line}     # until {wanted}");
        let output = eventually(SOON, wanted, async || {
            let mut process = self.program(line).start()?;
            process.wait_success(SOON).await?;
            let output = process.output();
            ensure!(is_so(&output), "CHECK FAILED: `{line}` says {output}");
            Ok(output)
        })
        .await?;
        for line in output.lines() {
            println!("    {line}");
        }
        Ok(())
    }

    /// Types a line in the Pod of this name, and lets it go on.
    pub(crate) fn start(&self, pod: &str, line: &str) -> Result<Process> {
        println!("{pod} $ {line}");
        self.quietly(pod, line)
    }

    /// The same, for one of many who type the same.
    pub(crate) fn quietly(&self, pod: &str, line: &str) -> Result<Process> {
        self.program(line).env("POD_NAME", pod).named(pod).start()
    }
}
