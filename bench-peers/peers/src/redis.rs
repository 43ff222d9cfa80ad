//! The usual recipe for Redis: `SET NX PX`, tried again after a random pause, extended and released by a script that
//! compares the value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use redis::aio::MultiplexedConnection;
use redis::{Client, ExistenceCheck, Script, SetExpiry, SetOptions};
use tokio::task::JoinHandle;

use crate::Options;
use crate::serve::{Connection, Contender, now};

const TTL: u64 = 15;
const RETRY: u64 = 100;
const RELEASE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
const EXTEND: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end";

pub(crate) struct Store {
    connection: MultiplexedConnection,
    options: Options,
}

pub(crate) struct Holder {
    connection: MultiplexedConnection,
    key: String,
    value: String,
    ttl: Duration,
    retry: Duration,
    until: Arc<AtomicU64>,
    extension: Option<JoinHandle<()>>,
}

pub(crate) async fn connect(options: Options) -> Result<Store> {
    let client = Client::open(options.endpoint.as_deref().context("--endpoint")?)?;
    Ok(Store { connection: client.get_multiplexed_async_connection().await?, options })
}

impl Connection for Store {
    type Contender = Holder;

    async fn contender(&self, lock: &str, _index: usize) -> Result<Holder> {
        Ok(Holder {
            connection: self.connection.clone(),
            key: lock.to_owned(),
            value: String::new(),
            ttl: self.options.lease_or(TTL),
            retry: self.options.retry_or(RETRY),
            until: Arc::default(),
            extension: None,
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Contender for Holder {
    async fn acquire(&mut self) -> Result<()> {
        self.value = format!("{:032x}", rand::random::<u128>());
        loop {
            let sent = now();
            let free_only = SetOptions::default()
                .conditional_set(ExistenceCheck::NX)
                .with_expiration(SetExpiry::PX(millis(self.ttl)));
            let answer: Option<String> =
                redis::AsyncCommands::set_options(&mut self.connection, &self.key, &self.value, free_only).await?;
            if answer.is_some() {
                self.until.store(sent + nanos(self.ttl), Ordering::Relaxed);
                break;
            }
            tokio::time::sleep(self.retry.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        let (mut connection, ttl, until) = (self.connection.clone(), self.ttl, self.until.clone());
        let (key, value) = (self.key.clone(), self.value.clone());
        self.extension = Some(tokio::spawn(async move {
            let script = Script::new(EXTEND);
            loop {
                tokio::time::sleep(ttl / 3).await;
                let sent = now();
                let extended: redis::RedisResult<u64> =
                    script.key(&key).arg(&value).arg(millis(ttl)).invoke_async(&mut connection).await;
                if let Ok(1) = extended {
                    until.store(sent + nanos(ttl), Ordering::Relaxed);
                }
            }
        }));
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        if let Some(extension) = self.extension.take() {
            extension.abort();
        }
        self.until.store(0, Ordering::Relaxed);
        let script = Script::new(RELEASE);
        let _: u64 = script.key(&self.key).arg(&self.value).invoke_async(&mut self.connection).await?;
        Ok(())
    }

    fn holds(&self) -> bool {
        now() < self.until.load(Ordering::Relaxed)
    }
}
