//! A read-write lock's life.

use anyhow::{Context as _, Result, ensure};
use leasehold::protocol::{Kind, Mode};
use leasehold_operator::crd::{ReadWriteLock, ReadWriteLockStatus, ReadWriteState};

use crate::support::{SOON, Scene};

async fn read_write_lock(scene: &Scene, name: &str) -> Result<ReadWriteLockStatus> {
    let yaml = format!("{{apiVersion: leasehold.dev/v1alpha1, kind: ReadWriteLock, metadata: {{name: {name}}}}}");
    scene.apply(&yaml).await?;
    scene.status_of::<ReadWriteLock>(name, |status| status.state == Some(ReadWriteState::Free)).await
}

#[tokio::test]
async fn status_and_columns_tell_readers_from_the_writer() -> Result<()> {
    let scene = Scene::new().await?;
    let free = read_write_lock(&scene, "catalogue").await?;
    let record = scene.record("catalogue", |record| record.kind == Kind::ReadWriteLock).await?;
    assert_eq!((free.readers, free.lease_uid.as_deref(), record.ephemeral), (0, Some(&*record.uid), false));

    let lock = scene.user("reader")?.read_write_lock("catalogue")?;
    let reader = lock.read().await?;
    let writing = scene.user("writer")?.read_write_lock("catalogue")?;
    let writing = tokio::spawn(async move { writing.write().await });
    let status =
        scene.status_of::<ReadWriteLock>("catalogue", |status| (status.readers, status.waiters) == (1, 1)).await?;
    assert_eq!((status.state, status.writer), (Some(ReadWriteState::Read), None));
    assert_eq!((&*status.holders[0].mode, status.holders[0].holder.pod.as_deref()), ("read", Some("reader")));
    reader.release().await?;
    let writer = tokio::time::timeout(SOON, writing).await.context("it is not let in")???;
    let status =
        scene.status_of::<ReadWriteLock>("catalogue", |status| status.state == Some(ReadWriteState::Written)).await?;
    let told = status.writer.context("no writer")?;
    assert_eq!((&*told.id, told.token), (&*writer.holder_identity(), Some(i64::try_from(writer.token())?)));
    let table = scene.namespace.kubectl(&["get", "rwlock"]).await?;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "READERS", "WRITER", "WAITERS", "AGE"]);
    assert_eq!(lines[1][..5], ["catalogue", "Written", "0", &*told.id, "0"]);
    ensure!(scene.event("catalogue", "Acquired").await?.contains("acquired catalogue with token"));

    // Deleted, it is left to its writer.
    scene.namespace.kubectl(&["delete", "rwlock", "catalogue", "--timeout=30s"]).await?;
    let left = scene.record("catalogue", |record| record.ephemeral).await?;
    assert!(
        left.is_held()
            && !left.lease.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("leasehold.dev/owner"))
    );
    writer.check()?;
    writer.release().await?;
    scene.no_lease("catalogue").await
}

#[tokio::test]
async fn a_dead_writer_is_in_nobody_s_way() -> Result<()> {
    let scene = Scene::new().await?;
    read_write_lock(&scene, "catalogue").await?;
    let alive = scene.client("alive").await?.keep_alive();
    let dead = scene.client("dead").await?;
    dead.share("catalogue", 1, Mode::Write).await?;
    alive.join("catalogue", 1).await?;
    let record = scene.record("catalogue", |record| record.is_held_by(&alive.id(1))).await?;
    assert!(!record.names(&dead.session));
    let note = scene.event("catalogue", "Evicted").await?;
    ensure!(note.contains(&format!("{} holds it now", alive.id(1))), "{note}");
    alive.stop().await
}
