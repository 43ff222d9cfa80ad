//! The examples for shells, for Python, and the manifests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use leasehold_testkit::{Program, bin};

use crate::support::{Outcome, Scene, end, outcome};

pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// A path on which `kubectl leasehold` is found, as after an installation.
async fn path(scene: &Scene) -> Result<String> {
    let folder = scene.folder.path().join("bin");
    if !folder.exists() {
        fs::create_dir(&folder)?;
        symlink(scene.namespace.cluster().kubectl_path().await?, folder.join("kubectl"))?;
        symlink(bin("kubectl-leasehold")?, folder.join("kubectl-leasehold"))?;
    }
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default()))
}

async fn example(scene: &Scene, name: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<Outcome> {
    let program = Program::new(examples().join(name)).args(args).env("KUBECONFIG", scene.kubeconfig());
    let program = program.env("PATH", path(scene).await?).env("POD_NAME", "worker").env_remove("LEASEHOLD_NAME");
    outcome(variables.iter().fold(program, |program, (key, value)| program.env(key, value))).await
}

/// A script of this text, that can be run.
pub(crate) fn script(scene: &Scene, name: &str, text: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = scene.folder.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

#[tokio::test]
async fn a_nightly_job_is_done_once() -> Result<()> {
    let scene = Scene::new().await?;
    let name = "shell/nightly.sh";
    example(&scene, name, &["/bin/sh", "-c", "exit 3"], &[]).await?.is(3, &[]);
    example(&scene, name, &["echo", "done"], &[]).await?.is(0, &["done\n"]);
    let again = example(&scene, name, &["echo", "done"], &[]).await?;
    again.is(0, &["was not acquired: held by worker, which has left it held"]);
    ensure!(!again.output.contains("done\n"), "{}", again.output);
    example(&scene, name, &[], &[]).await?.is(64, &["usage"]);
    Ok(())
}

#[tokio::test]
async fn steps_of_a_script_are_done_under_one_lock() -> Result<()> {
    let scene = Scene::new().await?;
    let name = "shell/steps.sh";
    let held = "kubectl leasehold run deployment --no-wait -- true; echo \"code=$?\"";
    let (one, two) = (script(&scene, "one", held)?, script(&scene, "two", "echo two")?);
    example(&scene, name, &[&one, &two], &[]).await?.is(0, &["code=75", "two\n"]);
    assert!(scene.lease("deployment").await?.is_none());
    // A step that fails, and one that takes longer than its term.
    let bad = script(&scene, "bad", "exit 4")?;
    let failed = example(&scene, name, &[&bad, &two], &[]).await?;
    failed.is(4, &[]);
    ensure!(!failed.output.contains("two\n") && scene.lease("deployment").await?.is_none(), "{}", failed.output);
    let slow = script(&scene, "slow", "kubectl leasehold run deployment -- sleep 0")?;
    let late = example(&scene, name, &[&slow, &two], &[("TERM_OF_A_STEP", "1s")]).await?;
    late.is(79, &["is over", "acquire it anew"]);
    ensure!(!late.output.contains("two\n"), "{}", late.output);
    Ok(())
}

#[tokio::test]
async fn so_many_run_at_a_time() -> Result<()> {
    let scene = Scene::new().await?;
    let status = "kubectl leasehold status db-imports";
    example(&scene, "shell/limit.sh", &["/bin/sh", "-c", status], &[("SIZE", "2")])
        .await?
        .is(0, &["1 of 2 held, 1 free"]);
    Ok(())
}

/// Whether there is a Python that the examples run in. Where there is none, that is said.
async fn has_python() -> Result<bool> {
    let there = match Program::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 7))"]).start() {
        Ok(mut process) => end(&mut process).await?.code == Some(0),
        Err(_) => false,
    };
    if !there {
        eprintln!("skipped: there is no python3 (3.7 or newer) on this machine");
    }
    Ok(there)
}

#[tokio::test]
async fn a_python_program_runs_under_a_lock() -> Result<()> {
    if !has_python().await? {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let ran = example(&scene, "python/under_lock.py", &[], &[]).await?;
    ran.is(0, &["nobody else is here; what is written carries the token "]);
    let ran = example(&scene, "python/held.py", &[], &[]).await?;
    ran.is(0, &["nobody else is here, for ", "renewed"]);
    ensure!(!ran.output.contains("None"), "{}", ran.output);
    let leases = scene.namespace.kubectl(&["get", "leases", "-o", "name"]).await?;
    assert_eq!(leases, "");
    Ok(())
}

/// What README.md has in this language, in its order.
fn of_readme(language: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(examples().join("../README.md"))?;
    let begin = format!("```{language}\n");
    let blocks = text.split(&begin).skip(1).filter_map(|rest| rest.split("```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// Runs what README.md says, in a folder where the programs are that it names.
async fn as_in_readme(scene: &Scene, name: &str, text: &str, programs: &[&str]) -> Result<Outcome> {
    use std::os::unix::fs::PermissionsExt as _;
    for program in programs {
        script(scene, program, &format!("echo \"$LEASEHOLD_NAME by {program}\""))?;
    }
    let path_of_it = scene.folder.path().join(name);
    fs::write(
        &path_of_it,
        if text.starts_with("#!") { text.to_owned() } else { format!("#!/usr/bin/env bash\n{text}") },
    )?;
    fs::set_permissions(&path_of_it, fs::Permissions::from_mode(0o755))?;
    let program = Program::new(&path_of_it).current_dir(scene.folder.path()).env("KUBECONFIG", scene.kubeconfig());
    outcome(program.env("PATH", path(scene).await?).env("POD_NAME", "worker").env_remove("LEASEHOLD_NAME")).await
}

#[tokio::test]
async fn what_the_readme_says_to_type_in_bash_works() -> Result<()> {
    let scene = Scene::new().await?;
    let blocks = of_readme("bash")?;
    let [lines, itself, handle] = &blocks[..] else { anyhow::bail!("{blocks:?}") };
    let programs = ["report.sh", "import.sh", "transfer.sh", "invoice.sh"];
    let typed = as_in_readme(&scene, "lines", &format!("set -e\n{lines}"), &programs).await?;
    typed.is(0, &["nightly-report by report.sh", "imports by import.sh", "account-1\naccount-2 by transfer.sh"]);
    typed.is(0, &["tenant-7\nimports\nprices by invoice.sh", "State:     Free", "nobody who can be asked"]);
    ensure!(typed.output.matches("by report.sh").count() == 2, "{}", typed.output);
    ensure!(!typed.output.contains("somebody else"), "{}", typed.output);
    as_in_readme(&scene, "itself", itself, &[]).await?.is(0, &["nobody else is here; the token is "]);
    script(&scene, "deploy.sh", "kubectl leasehold run deploy --no-wait -- true; echo \"code=$?\"")?;
    as_in_readme(&scene, "handle", handle, &[]).await?.is(0, &["code=75"]);
    let leases = scene.namespace.kubectl(&["get", "leases", "-o", "name"]).await?;
    assert_eq!(leases, "");
    Ok(())
}

#[tokio::test]
async fn what_the_readme_says_to_type_in_python_works() -> Result<()> {
    if !has_python().await? {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let blocks = of_readme("python")?;
    let [itself, part] = &blocks[..] else { anyhow::bail!("{blocks:?}") };
    as_in_readme(&scene, "itself.py", itself, &[]).await?.is(0, &["nobody else is here; the token is "]);
    as_in_readme(&scene, "part.py", part, &["send.sh"]).await?.is(0, &["invoices by send.sh"]);
    let mut holder = scene.holder("invoices", &[]).await?;
    as_in_readme(&scene, "part.py", part, &["send.sh"]).await?.is(0, &["somebody else does it"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    script(&scene, "send.sh", "exit 3")?;
    as_in_readme(&scene, "part.py", part, &[]).await?.is(3, &[]);
    Ok(())
}
