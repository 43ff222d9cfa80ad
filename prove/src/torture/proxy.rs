//! A TCP proxy that can be told to misbehave. TLS passes through it unread.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::history;

/// What a proxy does with the bytes that come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It passes them on.
    #[default]
    Open,
    /// It keeps them, in both directions, and takes new connections all the same. They go on when that is over.
    Hole,
    /// It keeps the server's answers; requests pass.
    NoAnswers,
    /// It keeps what the server sends without having been asked just before: the events of watches.
    NoEvents,
    /// It lets them wait, and then trickle.
    Slow,
}

/// Silence of a client after which what the server sends counts as an event, not as an answer.
const ASKED: Duration = Duration::from_millis(300);
/// How long a slow proxy keeps what it was given, and how it lets it go.
const DELAY: Duration = Duration::from_millis(120);
const TRICKLE: (usize, Duration) = (700, Duration::from_millis(15));

#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    mode: Mode,
    /// How often all connections have been cut.
    cuts: u64,
}

/// A port of 127.0.0.1 before the API server's.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before this port of 127.0.0.1.
    pub async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (orders, seen) = watch::channel(Orders::default());
        let task = tokio::spawn(serve(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)), seen));
        Ok(Self { port, orders, task })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what it does, on all its connections.
    pub fn set(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }

    /// Resets all its connections. What it kept is lost.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, upstream: SocketAddr, orders: watch::Receiver<Orders>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(carry(client, upstream, orders.clone()));
    }
}

/// One connection, until one side closes it or it is cut.
async fn carry(mut client: TcpStream, upstream: SocketAddr, mut orders: watch::Receiver<Orders>) {
    let cuts = orders.borrow_and_update().cuts;
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ended = {
        let asked = Arc::new(AtomicU64::new(history::now()));
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let up = pump(client_reads, server_writes, Direction::Up(asked.clone()), orders.clone());
        let down = pump(server_reads, client_writes, Direction::Down(asked), orders.clone());
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.is_ok(),
            _ = orders.wait_for(|orders| orders.cuts != cuts) => false,
        }
    };
    if !ended {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

enum Direction {
    /// Requests; when the last one came is noted.
    Up(Arc<AtomicU64>),
    /// Answers and events.
    Down(Arc<AtomicU64>),
}

impl Direction {
    fn keeps(&self, mode: Mode) -> bool {
        match (self, mode) {
            (_, Mode::Open | Mode::Slow) | (Self::Up(_), Mode::NoAnswers | Mode::NoEvents) => false,
            (_, Mode::Hole) | (Self::Down(_), Mode::NoAnswers) => true,
            (Self::Down(asked), Mode::NoEvents) => {
                let silence = history::now().saturating_sub(asked.load(Ordering::Acquire));
                Duration::from_nanos(silence) > ASKED
            }
        }
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if let Direction::Up(asked) = &direction {
            asked.store(history::now(), Ordering::Release);
        }
        // Once kept, bytes are kept until the order changes: also an answer that has become late.
        if direction.keeps(orders.borrow_and_update().mode) {
            let kept = orders.borrow().mode;
            let _ = orders.wait_for(|orders| orders.mode != kept).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        if orders.borrow().mode == Mode::Slow {
            sleep(DELAY).await;
            for piece in buffer[..length].chunks(TRICKLE.0) {
                to.write_all(piece).await?;
                sleep(TRICKLE.1).await;
            }
        } else {
            to.write_all(&buffer[..length]).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt as _;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const WHILE: Duration = Duration::from_millis(200);

    /// A server that answers each line with itself, and the line `later` once more after a time.
    async fn echo() -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (read, mut write) = stream.into_split();
                    let mut lines = tokio::io::BufReader::new(read).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let _ = write.write_all(format!("{line}\n").as_bytes()).await;
                        if line == "later" {
                            sleep(ASKED * 2).await;
                            let _ = write.write_all(b"event\n").await;
                        }
                    }
                });
            }
        });
        Ok(port)
    }

    async fn line(stream: &mut TcpStream, limit: Duration) -> Option<String> {
        let mut out = Vec::new();
        let read = timeout(limit, async {
            while let Ok(byte) = stream.read_u8().await {
                if byte == b'\n' {
                    return true;
                }
                out.push(byte);
            }
            false
        });
        (read.await == Ok(true)).then(|| String::from_utf8(out).expect("text"))
    }

    #[tokio::test]
    async fn a_hole_keeps_everything_and_lets_it_go_in_the_end() -> Result<()> {
        let proxy = Proxy::start(echo().await?).await?;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        stream.write_all(b"one\n").await?;
        assert_eq!(line(&mut stream, SOON).await.as_deref(), Some("one"));
        proxy.set(Mode::Hole);
        stream.write_all(b"two\n").await?;
        assert_eq!(line(&mut stream, WHILE).await, None);
        let mut other = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        other.write_all(b"three\n").await?;
        assert_eq!(line(&mut other, WHILE).await, None);
        proxy.set(Mode::Open);
        assert_eq!(line(&mut stream, SOON).await.as_deref(), Some("two"));
        assert_eq!(line(&mut other, SOON).await.as_deref(), Some("three"));
        Ok(())
    }

    #[tokio::test]
    async fn events_are_kept_and_answers_are_not() -> Result<()> {
        let proxy = Proxy::start(echo().await?).await?;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        proxy.set(Mode::NoEvents);
        stream.write_all(b"later\n").await?;
        assert_eq!(line(&mut stream, SOON).await.as_deref(), Some("later"));
        assert_eq!(line(&mut stream, ASKED * 4).await, None);
        proxy.set(Mode::Open);
        assert_eq!(line(&mut stream, SOON).await.as_deref(), Some("event"));
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_resets_and_new_connections_are_taken() -> Result<()> {
        let proxy = Proxy::start(echo().await?).await?;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        stream.write_all(b"one\n").await?;
        assert_eq!(line(&mut stream, SOON).await.as_deref(), Some("one"));
        proxy.cut();
        let error = timeout(SOON, stream.read_u8()).await?.expect_err("it is cut");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
        stream.write_all(b"two\n").await?;
        assert_eq!(line(&mut stream, SOON).await.as_deref(), Some("two"));
        Ok(())
    }
}
