//! A store that says when each request was sent and answered, and when each event came.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::{Moment, Version, Write};
use leasehold::{Failure, Sight, Store, clock};
use tokio::sync::mpsc::UnboundedSender;

use crate::counting::CountingStore;

/// What happened to a Lease, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    ReadSent,
    ReadAnswered,
    WriteSent,
    /// Carried out, or not.
    WriteAnswered(bool),
    /// The Lease as it stands, by a watch.
    Event,
}

#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) what: What,
    /// Of the Lease.
    pub(crate) name: String,
    pub(crate) at: Moment,
}

/// A [`CountingStore`] that tells what happens. What is sent is stamped before it is encoded, and what comes after it is
/// decoded: that is part of the way.
#[derive(Debug)]
pub(crate) struct StampingStore {
    pub(crate) store: CountingStore,
    pub(crate) tell: UnboundedSender<Stamp>,
}

fn stamp(tell: &UnboundedSender<Stamp>, name: &str, what: What) {
    // Nobody needs to listen.
    let _ = tell.send(Stamp { what, name: name.to_owned(), at: clock::moment() });
}

impl Store for StampingStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        async move {
            stamp(&self.tell, name, What::ReadSent);
            let answer = self.store.read(name).await;
            stamp(&self.tell, name, What::ReadAnswered);
            answer
        }
        .boxed()
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move {
            stamp(&self.tell, name, What::WriteSent);
            let answer = self.store.write(name, write).await;
            stamp(&self.tell, name, What::WriteAnswered(answer.is_ok()));
            answer
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        self.store.list()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let (tell, of) = (self.tell.clone(), name.to_owned());
        let told = move |sight: &Result<Sight, Failure>| {
            if matches!(sight, Ok(Sight::Shows(_))) {
                stamp(&tell, &of, What::Event);
            }
        };
        self.store.watch(name, label, from).inspect(told).boxed()
    }
}
