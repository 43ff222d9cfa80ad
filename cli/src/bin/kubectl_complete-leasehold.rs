//! kubectl runs a program of this name to complete `kubectl leasehold …`. It asks `kubectl-leasehold`, which stands beside it or on
//! the path.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let name = "kubectl-leasehold";
    let beside = env::current_exe().ok().map(|this| this.with_file_name(name)).filter(|path| path.is_file());
    let program = beside.unwrap_or_else(|| name.into());
    // It returns only where that could not be begun.
    let error = Command::new(&program).args(["__complete", "--"]).args(env::args_os().skip(1)).exec();
    eprintln!("leasehold: cannot run {}: {error}", program.display());
    ExitCode::from(127)
}
