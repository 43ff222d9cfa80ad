//! Whether a watch hears anything of the API server.
//!
//! A watch that shows nothing may have nothing to show, or be dead without anybody having said so. The API server is asked
//! to end each watch after [`ROUND`] seconds, and before that it sends a bookmark: so where not a byte has come for [`DEAF`]
//! nobody sends any, and the connection is given up, as one that has failed.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use backon::ExponentialBuilder;
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use kube::client::{ClientBuilder, DynBody};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::ExponentialBackoff;
use kube::{Client, Config};
use leasehold::clock;
use leasehold::protocol::Moment;
use tower::BoxError;
use tower::util::MapResponseLayer;

/// After so many seconds each watch is begun anew.
pub(crate) const ROUND: u32 = 60;
/// After so long without a byte a connection is given up. Longer than a round.
pub(crate) const DEAF: Duration = Duration::from_secs(75);

/// The first pause before a watch that failed is begun anew, and the longest, which may be up to twice as long by chance.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(2500));

/// How long to wait before a watch that failed is begun anew. What comes after an outage is not to wait for long: without
/// its watches the operator sees no new holder.
pub(crate) fn pauses() -> impl Backoff + 'static {
    let (first, longest) = PAUSES;
    let builder = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
    ExponentialBackoff::from(builder.with_factor(2.0).without_max_times().with_jitter())
}

/// When something was last heard.
#[derive(Clone, Debug)]
pub(crate) struct Ear(Arc<Mutex<Moment>>);

impl Ear {
    pub(crate) fn new(now: Moment) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    pub(crate) fn heard(&self) -> Moment {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hears(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clock::now().moment;
    }
}

/// Connections that are given up when nothing comes for too long.
pub(crate) fn attentive(mut config: Config) -> Config {
    config.read_timeout = Some(DEAF);
    config.reset_reader_on_write = true;
    config
}

/// A client with connections of its own, by which something is heard.
pub(crate) fn client(config: Config, ear: &Ear) -> Result<Client, kube::Error> {
    let ear = ear.clone();
    let listen = MapResponseLayer::new(move |response: Response<Box<DynBody>>| {
        ear.hears();
        let ear = ear.clone();
        response.map(|body| Heard { body, ear })
    });
    Ok(ClientBuilder::try_from(attentive(config))?.with_layer(&listen).build())
}

/// An answer, as it comes in.
struct Heard {
    body: Box<DynBody>,
    ear: Ear,
}

impl Body for Heard {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(Some(Ok(_)))) {
            self.ear.hears();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
