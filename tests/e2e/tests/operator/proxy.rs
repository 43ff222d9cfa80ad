//! A port before the API server's whose connections can go silent. TLS passes through it unread.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use kube::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Proxy {
    server: String,
    port: u16,
    /// How often it was frozen: a connection of an earlier time is silent.
    frozen: watch::Sender<u32>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(config: &Config) -> Result<Self> {
        let authority = config.cluster_url.authority().context("a URL without a host")?.to_string();
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (frozen, frozen_yet) = watch::channel(0);
        let server = authority.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&authority).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let mut frozen = frozen_yet.clone();
                frozen.mark_unchanged();
                tokio::spawn(pass(from_client, to_server, frozen.clone()));
                tokio::spawn(pass(from_server, to_client, frozen));
            }
        });
        Ok(Self { server, port, frozen, task })
    }

    /// The same kubeconfig, by way of this.
    pub(crate) fn in_place_of_server(&self, kubeconfig: &str) -> String {
        kubeconfig.replace(&self.server, &format!("127.0.0.1:{}", self.port))
    }

    /// No connection that there is passes anything any more, and none is closed. New ones pass everything.
    pub(crate) fn freeze(&self) {
        self.frozen.send_modify(|times| *times += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<u32>) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            biased;
            changed = frozen.changed() => {
                if changed.is_err() {
                    return;
                }
                break;
            }
            read = from.read(&mut bytes) => {
                let Ok(count @ 1..) = read else { return };
                if to.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
    // Both ends stay open until the proxy goes.
    while frozen.changed().await.is_ok() {}
}
