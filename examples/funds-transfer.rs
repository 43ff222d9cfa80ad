//! Transfers between accounts: two locks at once, all or nothing, without deadlock.
//!
//! Run it: make example NAME=funds-transfer
//!
//! Look for: three tellers transfer in a circle and against each other, which deadlocks where each takes the locks in
//! the order in which it names them. A `MultiLock` takes them in one order, whatever the order of the names. The
//! sum of all accounts is kept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use leasehold::{Client, MultiLock};

const ACCOUNTS: [&str; 3] = ["account-ann", "account-bob", "account-eve"];
const ROUNDS: usize = 6;

async fn accounts() -> Result<Api<ConfigMap>> {
    Ok(Api::default_namespaced(kube::Client::try_default().await?))
}

fn balance(account: &ConfigMap) -> Result<i64> {
    let balance = account.data.as_ref().and_then(|data| data.get("balance")).context("it has no balance")?;
    Ok(balance.parse()?)
}

async fn transfer(client: &Client, api: &Api<ConfigMap>, from: &str, to: &str, amount: i64) -> Result<()> {
    let (one, other) = (client.lock(from).build()?, client.lock(to).build()?);
    let both = MultiLock::new().lock(&one).lock(&other).build()?;
    let guard = both.acquire_timeout(Duration::from_secs(30)).await?;
    for (name, change) in [(from, -amount), (to, amount)] {
        let mut account = api.get(name).await?;
        let balance = balance(&account)? + change;
        account.data = Some([("balance".to_owned(), balance.to_string())].into());
        guard.check()?;
        api.replace(name, &PostParams::default(), &account).await?;
    }
    guard.release().await?;
    println!("{amount} from {from} to {to}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let api = accounts().await?;
    for name in ACCOUNTS {
        let _ = api.delete(name, &DeleteParams::default()).await; // what an earlier run has left
        let mut account = ConfigMap::default();
        account.metadata.name = Some(name.to_owned());
        account.data = Some([("balance".to_owned(), "100".to_owned())].into());
        api.create(&PostParams::default(), &account).await?;
    }

    let tellers = (0..ACCOUNTS.len()).map(|teller| {
        tokio::spawn(async move {
            let (client, api) = (Client::try_default().await?, accounts().await?);
            for round in 0..ROUNDS {
                // Round and round, and every other time the other way.
                let (from, to) = (ACCOUNTS[teller], ACCOUNTS[(teller + 1) % ACCOUNTS.len()]);
                let (from, to) = if round % 2 == 0 { (from, to) } else { (to, from) };
                transfer(&client, &api, from, to, i64::try_from(teller + round)? + 1).await?;
            }
            client.shutdown().await;
            anyhow::Ok(())
        })
    });
    try_join_all(tellers).await?.into_iter().collect::<Result<()>>()?;

    let mut sum = 0;
    for name in ACCOUNTS {
        let balance = balance(&api.get(name).await?)?;
        println!("{name}: {balance}");
        sum += balance;
        api.delete(name, &DeleteParams::default()).await?;
    }
    ensure!(sum == 300, "the sum is {sum}");
    println!("ok: {} transfers, and the sum is kept", ACCOUNTS.len() * ROUNDS);
    Ok(())
}
