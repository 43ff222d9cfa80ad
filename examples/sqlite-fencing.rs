//! The fencing token in a database: a transaction of a former holder changes no row.
//!
//! Run it: make example NAME=sqlite-fencing
//!
//! Look for: each transaction first raises the greatest token seen, and gives up if that was greater already. The first
//! holder's lock is broken while it is held up; its transaction comes too late, and is rolled back. See docs/fencing.md.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use leasehold::Client;
use rusqlite::{Connection, TransactionBehavior, params};

/// Takes something from an account, if nobody with a greater token has been here. Whether it did.
fn withdraw(database: &mut Connection, token: u64, amount: i64) -> Result<bool> {
    let token = i64::try_from(token).context("tokens are below 2^63")?;
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // First, before anything is read: from here to the commit nobody else gets by.
    let raised =
        transaction.execute("UPDATE fence SET token = ?1 WHERE name = 'accounts' AND token <= ?1", params![token])?;
    if raised == 0 {
        transaction.rollback()?;
        return Ok(false);
    }
    transaction.execute("UPDATE account SET balance = balance - ?1 WHERE id = 4711", params![amount])?;
    transaction.commit()?;
    Ok(true)
}

fn balance(database: &Connection) -> Result<i64> {
    Ok(database.query_row("SELECT balance FROM account WHERE id = 4711", [], |row| row.get(0))?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut database = Connection::open_in_memory()?;
    database.execute_batch(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         INSERT INTO account VALUES (4711, 100);
         CREATE TABLE fence (name TEXT PRIMARY KEY, token INTEGER NOT NULL);
         INSERT INTO fence VALUES ('accounts', 0);",
    )?;

    let (first, second) = (Client::try_default().await?, Client::try_default().await?);
    let guard = first.lock("sqlite-fencing").build()?.acquire().await?;
    let token = guard.token();
    ensure!(withdraw(&mut database, token, 10)?, "the holder was refused");
    println!("first: took 10 with token {token}, {} are left", balance(&database)?);

    // Here it is paused for long; and since it does not answer, somebody breaks the lock.
    let leases: Api<Lease> = Api::default_namespaced(kube::Client::try_default().await?);
    leases.delete("sqlite-fencing", &DeleteParams::default()).await?;
    let next = second.lock("sqlite-fencing").build()?.acquire().await?;
    ensure!(withdraw(&mut database, next.token(), 20)?, "the holder was refused");
    println!("second: took 20 with token {}, {} are left", next.token(), balance(&database)?);

    ensure!(!withdraw(&mut database, token, 10)?, "the former holder was not refused");
    println!("first: refused with token {token}");
    ensure!(withdraw(&mut database, next.token(), 5)?, "the holder was refused after that");
    let left = balance(&database)?;
    ensure!(left == 65, "{left} are left");
    next.release().await?;
    first.shutdown().await;
    second.shutdown().await;
    println!("ok: {left} are left, the former holder took nothing");
    Ok(())
}
