//! Breaking a hold: by whoever may, with a trace, and by nobody else.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use leasehold::protocol::record::Broken;
use leasehold::{Client, LossReason};
use leasehold_testkit::{Account, eventually};
use serde::Deserialize as _;

use super::{Forbidden, client_of, rules, strict_scene};
use crate::support::{ROOT, SOON, Scene, holder};

/// What `config/rbac` gives those who may break.
fn breaker_rules() -> Result<Vec<PolicyRule>> {
    let yaml = std::fs::read_to_string(format!("{ROOT}/config/rbac/user_roles.yaml"))?;
    let roles = serde_yaml_ng::Deserializer::from_str(&yaml).map(ClusterRole::deserialize);
    let roles = roles.collect::<Result<Vec<_>, _>>()?;
    let breaker = roles.into_iter().find(|role| role.metadata.name.as_deref() == Some("leasehold-breaker"));
    breaker.and_then(|role| role.rules).context("the role leasehold-breaker")
}

fn client(scene: &Scene, account: &Account) -> Result<Client> {
    Ok(Client::builder().kube_config(account.config()).namespace(scene.namespace.name()).build()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_is_for_whoever_may_and_is_told_with_who_when_and_why() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let account = scene.namespace.service_account("app", rules()).await?;
    let (one, two) = (account.in_pod("one").await?, account.in_pod("two").await?);
    let (one, two) =
        (client_of(&one, &scene.namespace, 6, &forbidden)?, client_of(&two, &scene.namespace, 6, &forbidden)?);
    let breaker = scene.namespace.service_account("breaker", breaker_rules()?).await?;
    scene.lock("build").await?;
    let held = one.lock("build").build()?.acquire().await?;
    let waiting = two.lock("build").build()?;
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    scene.record("build", |record| record.waiters.len() == 1).await?;

    // Who only uses locks may not, in nobody's name.
    let error = two.break_holds("build", None, "I want it").await.expect_err("it may not");
    ensure!(error.to_string().contains("may not break this"), "{error}");
    ensure!(!error.is_retryable());
    held.check()?;

    let broken = eventually(SOON, "the permission to count", async || {
        Ok(client(&scene, &breaker)?.break_holds("build", None, "node-7 is gone").await?)
    })
    .await?;
    ensure!(broken == [held.holder_identity()], "{broken:?}");
    let now = tokio::time::timeout(SOON, waiting).await???;
    ensure!(now.token() > held.token());
    tokio::time::timeout(SOON, held.lost().cancelled_owned()).await.context("it is not told")?;
    ensure!(held.check().is_err_and(|lost| lost.reason == LossReason::Broken));
    let said = Broken::of(&scene.lease("build").await?).context("there is no trace")?;
    assert_eq!((said.by, said.reason), (breaker.username(), "node-7 is gone".to_owned()));
    ensure!(said.holder == held.holder_identity() && said.at.ends_with('Z'), "{}", said.at);
    let note = scene.event("build", "Broken").await?;
    ensure!(
        note.contains(&format!("{} broke it at ", breaker.username())) && note.contains("node-7 is gone"),
        "{note}"
    );
    now.release().await?;
    // Nobody holds it any more.
    ensure!(client(&scene, &breaker)?.break_holds("build", None, "again").await?.is_empty());
    // Used again, it keeps the trace.
    drop(held);
    one.lock("build").build()?.acquire().await?.release().await?;
    ensure!(Broken::of(&scene.lease("build").await?).is_some());
    let others: Vec<_> = forbidden.all().into_iter().filter(|why| !why.contains("may not break this")).collect();
    ensure!(others.is_empty(), "{others:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_holds_is_broken_and_the_others_stay() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let account = scene.namespace.service_account("app", rules()).await?;
    let breaker = scene.namespace.service_account("breaker", breaker_rules()?).await?;
    let pods = [account.in_pod("one").await?, account.in_pod("two").await?, account.in_pod("three").await?];
    let clients = pods.iter().map(|pod| client_of(pod, &scene.namespace, 6, &forbidden)).collect::<Result<Vec<_>>>()?;
    let [one, two, three] = &clients[..] else { unreachable!("there are three") };
    let permits = |client: &Client| client.semaphore("db").with_permits(2).build();
    let (first, second) = (permits(one)?.acquire(1).await?, permits(two)?.acquire(1).await?);
    let third = permits(three)?;
    let third = tokio::spawn(async move { third.acquire(1).await });
    scene.record("db", |record| record.waiters.len() == 1).await?;
    let broken = eventually(SOON, "the permission to count", async || {
        Ok(client(&scene, &breaker)?.break_holds("db", Some(&first.holder_identity()), "it hangs").await?)
    })
    .await?;
    ensure!(broken == [first.holder_identity()], "{broken:?}");
    let third = tokio::time::timeout(SOON, third).await.context("nobody lets it in")???;
    second.check()?;
    tokio::time::timeout(SOON, first.lost().cancelled_owned()).await.context("it is not told")?;

    let [reader, other] =
        [one.read_write_lock("catalog")?.read().await?, two.read_write_lock("catalog")?.read().await?];
    let all = client(&scene, &breaker)?.break_holds("catalog", None, "the migration is due").await?;
    ensure!(all.len() == 2 && all.contains(&reader.holder_identity()), "{all:?}");
    tokio::time::timeout(SOON, other.lost().cancelled_owned()).await.context("it is not told")?;
    let record = scene.read("catalog").await?;
    ensure!(record.is_none_or(|record| holder(&record).is_empty() && !record.is_held()));
    third.release().await?;
    second.release().await?;
    ensure!(forbidden.all().is_empty(), "{:#?}", forbidden.all());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_in_another_name_or_of_another_hold_is_refused() -> Result<()> {
    use leasehold::protocol::write::breaking::break_hold;
    use leasehold::{Failure, KubeStore, Store as _, clock};

    let scene = strict_scene().await?;
    let account = scene.namespace.pod_account("one", rules()).await?;
    let one = client_of(&account, &scene.namespace, 6, &Forbidden::default())?;
    let breaker = scene.namespace.service_account("breaker", breaker_rules()?).await?;
    scene.lock("build").await?;
    let held = one.lock("build").build()?.acquire().await?;
    let record = scene.read("build").await?.context("the Lease")?;
    let store = KubeStore::new(breaker.config(), scene.namespace.name())?;
    let stamp = clock::now().stamp;
    let meant = record.holder.as_ref().context("the holder")?;
    let mut another = meant.clone();
    another.identity = "another_x.1".to_owned();
    for (holder, by, reason) in [
        (meant, "system:admin", "somebody else did it"),
        (&another, &breaker.username(), "that one I meant"),
        (meant, &breaker.username(), ""),
    ] {
        let write = break_hold(&record, holder, by, reason, stamp);
        eventually(SOON, "the permission to count", async || match store.write("build", &write).await {
            Err(Failure::Forbidden(why)) if why.contains("says who") => Ok(()),
            outcome => anyhow::bail!("{by} {reason}: {outcome:?}"),
        })
        .await?;
    }
    held.check()?;
    store.write("build", &break_hold(&record, meant, &breaker.username(), "it hangs", stamp)).await?;
    Ok(())
}
