//! `acquire`, `renew` and `release`: holds of a fixed term, for scripts that cannot wrap their work.

use std::fmt::Write as _;
use std::slice;
use std::time::Duration;

use kube::Config;
use leasehold::clock::moment;
use leasehold::{Handle, HandleError};
use serde::Serialize;

use crate::args::{AcquireArgs, ClusterArgs, HandleFormat, ReleaseArgs, RenewArgs, VoiceArgs};
use crate::backend::{self, Backend, Order};
use crate::config;
use crate::exit::{self, Failure, chain, say};
use crate::held::Held;
use crate::output::{json, print_on};
use crate::read::Leases;
use crate::run::{Wait, acquire as wait_for};
use crate::signals::Signals;

/// The session by which it is acquired lives no longer than the command.
const SESSION: Duration = Duration::from_secs(30);

/// What is said of a handle, as `-o json` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    handle: String,
    /// By the clock of this machine, when this was written. The fraction is cut off.
    expires_in_seconds: u64,
    /// The same by `CLOCK_BOOTTIME`, for whoever cannot tell how long ago this was written. Linux only.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_boot_time_seconds: Option<u64>,
    namespace: String,
    lease_name: String,
    holder: String,
    /// Of an acquisition. A renewal leaves it as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
}

pub(crate) async fn acquire(cluster: &ClusterArgs, args: &AcquireArgs) -> Result<u8, Failure> {
    let config = config::load(cluster).await?;
    let mut signals = Signals::ending().map_err(|error| Failure::internal(&error))?;
    let leases = Leases::new(config.clone())?;
    let wanted = args.want.wanted(&args.name);
    let order = Order {
        wanted: slice::from_ref(&wanted),
        max_clock_skew: args.want.max_clock_skew,
        hold_at_least: None,
        max_hold: None,
        lease_duration: SESSION,
        grace: Duration::ZERO,
    };
    let again = config.clone();
    let backend = Backend::new(config, &order)?;
    let wait = Wait {
        leases: &leases,
        wanted: slice::from_ref(&wanted),
        limit: args.waiting.limit(),
        conflict: args.waiting.conflict_exit_code,
        voice: args.voice,
    };
    let outcome = match wait_for(&backend, &wait, &mut signals).await {
        Ok(guard) => {
            let held = Held::Locks(guard);
            let published = match &args.payload {
                Some(text) => held.publish(text).await,
                None => Ok(()),
            };
            match (published, held) {
                (Ok(()), Held::Locks(guard)) => {
                    let token = guard.holds().first().map(leasehold::Hold::token);
                    let handles = guard.into_handles(args.term).await;
                    handles.map(|handles| (handles, token)).map_err(|error| failed(&error))
                }
                (Err(failure), held) => {
                    held.let_go(None).await;
                    Err(failure)
                }
                (Ok(()), Held::Leadership(_)) => unreachable!("locks were acquired"),
            }
        }
        Err(failure) => Err(failure),
    };
    backend.leave(false).await;
    let (handles, token) = outcome?;
    for handle in &handles {
        if !matches!(tell(handle, token, args.term, args.output, args.voice), Ok(true)) {
            // Nobody could ever release it.
            let released = backend::asking(again.clone(), None)?.release_handle(handle).await;
            released.map_err(|error| failed(&error))?;
            return Err(Failure::new(exit::INTERNAL, "nobody reads the handle; it was released"));
        }
    }
    Ok(0)
}

pub(crate) async fn renew(cluster: &ClusterArgs, args: &RenewArgs) -> Result<u8, Failure> {
    let (config, handle) = named(cluster, &args.handle).await?;
    let renewed = backend::asking(config, None)?.renew_handle(&handle, args.term).await;
    let renewed = renewed.map_err(|error| failed(&error))?;
    tell(&renewed, None, args.term, args.output, args.voice)?;
    Ok(0)
}

pub(crate) async fn release(cluster: &ClusterArgs, args: &ReleaseArgs) -> Result<u8, Failure> {
    let (config, handle) = named(cluster, &args.handle).await?;
    backend::asking(config, None)?.release_handle(&handle).await.map_err(|error| failed(&error))?;
    if args.voice.verbose {
        say(format_args!("released {} in namespace {}", handle.lease_name(), handle.namespace()));
    }
    Ok(0)
}

/// A handle says in which namespace it is.
async fn named(cluster: &ClusterArgs, text: &str) -> Result<(Config, Handle), Failure> {
    let handle: Handle = text.parse().map_err(|error| Failure::usage(chain(&error)))?;
    let said = cluster.namespace.as_deref().filter(|said| *said != handle.namespace());
    if let Some(said) = said {
        return Err(Failure::usage(format!("the handle is of namespace {}, not of {said}", handle.namespace())));
    }
    let cluster = ClusterArgs { namespace: Some(handle.namespace().to_owned()), ..cluster.clone() };
    Ok((config::load(&cluster).await?, handle))
}

/// Whether anybody reads it.
fn tell(
    handle: &Handle,
    token: Option<u64>,
    term: Duration,
    output: Option<HandleFormat>,
    voice: VoiceArgs,
) -> Result<bool, Failure> {
    // It was made on this machine just now, so its clock tells, wherever there is one that does.
    let left = handle.remaining().unwrap_or(term).as_secs();
    let until = handle.remaining().filter(|_| cfg!(target_os = "linux")).map(|left| moment() + left);
    let told = Told {
        handle: handle.to_string(),
        expires_in_seconds: left,
        expires_at_boot_time_seconds: until.map(|until| until.since_start().as_secs()),
        namespace: handle.namespace().to_owned(),
        lease_name: handle.lease_name().to_owned(),
        holder: handle.holder_identity(),
        token,
    };
    match output {
        Some(HandleFormat::Json) => print_on(&json(&told)?),
        Some(HandleFormat::Env) => print_on(&environment(&told)),
        None => {
            if !voice.quiet {
                say(format_args!("it is over in {left}s, unless it is renewed"));
            }
            print_on(&format!("{}\n", told.handle))
        }
    }
}

/// Nothing in it means anything to a shell.
fn environment(told: &Told) -> String {
    let mut text = format!(
        "LEASEHOLD_HANDLE={}\nLEASEHOLD_EXPIRES_IN={}\nLEASEHOLD_HOLDER={}\n",
        told.handle, told.expires_in_seconds, told.holder
    );
    if let Some(until) = told.expires_at_boot_time_seconds {
        let _ = writeln!(text, "LEASEHOLD_EXPIRES_AT_BOOT_TIME={until}");
    }
    if let Some(token) = told.token {
        let _ = writeln!(text, "LEASEHOLD_TOKEN={token}");
    }
    text
}

fn failed(error: &HandleError) -> Failure {
    match error {
        HandleError::Over { .. } => Failure::new(exit::OVER, chain(error)),
        HandleError::Lost(_) => Failure::new(exit::LOST, chain(error)),
        HandleError::Options(_) => Failure::usage(chain(error)),
        HandleError::Api { source, .. } => backend::refused(source, &["get", "update", "patch", "delete"]),
        HandleError::Unsettled { .. } => Failure::new(exit::UNREACHABLE, chain(error)),
        error => Failure::internal(error),
    }
}
