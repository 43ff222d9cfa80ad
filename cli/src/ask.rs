//! `ask`: a word to whoever holds something.

use kube::Config;
use leasehold::{ReadError, RequestReleaseError};

use crate::args::AskArgs;
use crate::backend;
use crate::exit::{Failure, chain, say};

/// Asks, and says who was asked. Nobody to ask is no failure: there is nobody in the way.
pub(crate) async fn ask(config: Config, args: &AskArgs) -> Result<u8, Failure> {
    let place = backend::anything(config, &args.name, &asker())?;
    let asked = place.request_release(args.holder.as_deref(), args.within, &args.reason).await;
    let asked = asked.map_err(|error| match error {
        RequestReleaseError::Read(ReadError::Api { source, .. }) => backend::refused(&source, &["get", "patch"]),
        error @ RequestReleaseError::Options(_) => Failure::usage(chain(&error)),
        error => Failure::internal(&error),
    })?;
    for identity in &asked {
        say(format_args!("asked {identity} to let go of {} within {:?}", args.name, args.within));
    }
    if asked.is_empty() {
        say(format_args!("nobody who can be asked holds {}", args.name));
    }
    Ok(0)
}

/// As whom to ask: the holder is told.
fn asker() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let named = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    match (named("POD_NAME"), named("USER")) {
        (Some(pod), _) => pod,
        (None, Some(user)) => format!("{user}@{host}"),
        (None, None) => host,
    }
}
