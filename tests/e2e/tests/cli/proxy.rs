//! A port before the API server's that can be cut off and joined again. TLS passes through it unread.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::Scene;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Passes,
    /// What comes in waits.
    Silent,
    /// Every connection is closed, also new ones.
    Closed,
}

pub(crate) struct Proxy {
    kubeconfig: PathBuf,
    state: watch::Sender<State>,
    refused: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// One of the scene's worker, beside its own way to the API server.
    pub(crate) async fn of(scene: &Scene) -> Result<Self> {
        let server = scene.namespace.config().cluster_url.authority().context("a URL without a host")?.to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let here = listener.local_addr()?.to_string();
        let kubeconfig = scene.folder.path().join("behind-proxy");
        fs::write(&kubeconfig, fs::read_to_string(scene.kubeconfig())?.replace(&server, &here))?;
        let (state, now) = watch::channel(State::Passes);
        let refused = Arc::new(AtomicU32::new(0));
        let counted = refused.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *now.borrow() == State::Closed {
                    counted.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, now.clone()));
                tokio::spawn(pass(from_server, to_client, now.clone()));
            }
        });
        Ok(Self { kubeconfig, state, refused, task })
    }

    /// The kubeconfig that leads through it.
    pub(crate) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// Nothing passes any more, and no connection is closed.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Silent);
    }

    /// All connections are closed, and so is every new one.
    pub(crate) fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// How many new connections it has closed.
    pub(crate) fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Everything passes, also what was sent while it was silent.
    pub(crate) fn join(&self) {
        self.state.send_replace(State::Passes);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let mut closed = state.clone();
    let passing = async {
        let (mut bytes, mut state) = (vec![0; 16 * 1024], state);
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let passes = state.wait_for(|state| *state != State::Silent).await.is_ok();
            if !passes || to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        _ = closed.wait_for(|state| *state == State::Closed) => {}
        () = passing => {}
    }
}
