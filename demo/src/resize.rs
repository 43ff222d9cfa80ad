//! A semaphore that is resized while it is used.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_testkit::eventually;

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(60);
/// How many want a permit at a time.
const WORKERS: usize = 6;
/// For how long at least each size is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// The most at work at a time, with as many permits.
pub(crate) type Seen = Vec<(i64, i64)>;

/// Lets workers share a semaphore, and scales it.
pub(crate) async fn perform(stage: &Stage, semaphore: &str) -> Result<Seen> {
    println!("\nSix builders share the semaphore {semaphore:?}, which is resized meanwhile.\n");
    stage.add_semaphore(semaphore).await?;
    stage.scale(semaphore, 2).await?;
    let again = format!("until [ -e built ]; do kubectl leasehold run --semaphore {semaphore} -- ./build.sh; done");
    let mut builders = vec![stage.worker().start("builder-1", &again)?];
    println!("    (and five more)");
    for n in 2..=WORKERS {
        builders.push(stage.worker().quietly(&format!("builder-{n}"), &again)?);
    }
    let mut seen = Vec::new();
    for permits in [2, 4, 1] {
        println!();
        stage.scale(semaphore, permits).await?;
        // Whoever has permits when it shrinks may finish.
        let list = "kubectl leasehold list -l leasehold.dev/kind=semaphore";
        let held = |list: &str| (0..=permits).any(|n| list.contains(&format!(" {n}/{permits} ")));
        stage.worker().until(list, &format!("at most {permits} of {permits} are held"), held).await?;
        let from = stage.read("site")?.lines().count();
        let most =
            async || -> Result<i64> { Ok(at_work(&stage.read("site")?).into_iter().skip(from).max().unwrap_or(0)) };
        stage.show(&format!("sem/{semaphore}"), LOOK).await?;
        let found = eventually(SOON, "work by as many as may", async || {
            let most = most().await?;
            ensure!(most >= permits, "CHECK FAILED: only {most} were at work at a time, with {permits} permits");
            Ok(most)
        })
        .await?;
        ensure!(found <= permits, "CHECK FAILED: {found} were at work with {permits} permits");
        println!("    {found} at work at a time");
        seen.push((permits, found));
    }
    stage.worker().run("touch built", 0).await?;
    for builder in &mut builders {
        builder.wait_success(SOON).await?;
    }
    Ok(seen)
}

/// How many were at work, after each line that says that somebody came or went.
fn at_work(site: &str) -> Vec<i64> {
    let change = |line: &str| if line == "in" { 1 } else { -1 };
    site.lines()
        .scan(0, |now, line| {
            *now += change(line);
            Some(*now)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::at_work;

    #[test]
    fn who_comes_and_goes_is_counted() {
        assert_eq!(at_work("in\nin\nout\nin\nout\nout\n"), [1, 2, 1, 2, 1, 0]);
        assert_eq!(at_work(""), [] as [i64; 0]);
    }
}
