//! `elect`: one of several replicas works, or answers that it leads.

use std::net::SocketAddr;

use leasehold::election::PodLabel;
use leasehold::{AcquireError, Client, Election, Leadership};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::{AfterLoss, ClusterArgs, ElectArgs};
use crate::backend::{self, VERBS};
use crate::config;
use crate::exit::{self, Failure, chain, say};
use crate::held::{Held, Released};
use crate::read::Leases;
use crate::serve;
use crate::signals::Signals;
use crate::strays::Reaper;
use crate::supervise::{self, Ended, Work};
use crate::terminal::Terminal;
use crate::waiting::{self, Waited};

pub(crate) async fn elect(cluster: &ClusterArgs, args: &ElectArgs) -> Result<u8, Failure> {
    let grace = args.grace().map_err(Failure::usage)?;
    let config = config::load(cluster).await?;
    let namespace = config.default_namespace.clone();
    let mut signals = Signals::ending().map_err(|error| Failure::internal(&error))?;
    let reaper = Reaper::begin().map_err(|error| Failure::internal(&error))?;
    let leases = Leases::new(config.clone())?;
    let client = backend::client(config, args.lease_duration, grace)?;
    let election = election(&client, args).map_err(|error| backend::bad_option(&error))?;
    let stop = CancellationToken::new();
    if let Some(address) = args.serve {
        serve(address, election.clone(), stop.clone()).await?;
    }
    let candidate = Candidate { args, election, leases, reaper, terminal: Terminal::open(), namespace };
    let outcome = candidate.stand(&mut signals).await;
    stop.cancel();
    let lost = matches!(&outcome, Err(failure) if failure.code == exit::LOST);
    backend::leave(client, lost).await;
    outcome
}

fn election(client: &Client, args: &ElectArgs) -> Result<Election, leasehold::OptionsError> {
    let mut election = client.election(&args.name).lease_duration(args.lease_duration);
    if let Some(key) = &args.label_pod {
        let label = if key.is_empty() { PodLabel::new() } else { PodLabel::new().key(key) };
        election = election.label_pod(label);
    }
    election.build()
}

async fn serve(address: SocketAddr, election: Election, stop: CancellationToken) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| Failure::usage(format!("cannot serve at {address}: {error}")))?;
    if let Ok(bound) = listener.local_addr() {
        say(format_args!("answering at http://{bound}/"));
    }
    tokio::spawn(async move {
        if let Err(error) = serve::serve(listener, election, stop).await {
            say(format_args!("no more answers are given: {error}"));
        }
    });
    Ok(())
}

struct Candidate<'a> {
    args: &'a ElectArgs,
    election: Election,
    leases: Leases,
    reaper: Reaper,
    terminal: Option<Terminal>,
    namespace: String,
}

impl Candidate<'_> {
    /// Stands for election until there is nothing more to do.
    async fn stand(&self, signals: &mut Signals) -> Result<u8, Failure> {
        let program = self.args.program();
        loop {
            let Some(leadership) = self.campaign(signals).await? else { return Ok(0) };
            if !self.args.voice.quiet {
                say(format_args!("leads {} with token {}", self.args.name, leadership.token()));
            }
            let held = Held::Leadership(leadership);
            if let Some(text) = &self.args.payload
                && let Err(failure) = held.publish(text).await
            {
                held.let_go(None).await;
                return Err(failure);
            }
            let lost = if let Some(program) = &program {
                match self.work(&held, signals, program).await {
                    Ok((Ended::ByItself(code), _)) => return self.step_down(held, code).await,
                    Ok((Ended::Stopped(failure), told_to_end)) if told_to_end => return Err(failure),
                    Ok((Ended::Stopped(failure), _)) => failure,
                    Err(failure) => {
                        held.let_go(None).await;
                        return Err(failure);
                    }
                }
            } else {
                let lost = held.lost();
                tokio::select! {
                    _ = signals.next() => return self.step_down(held, 0).await,
                    () = lost.cancelled() => {}
                }
                let why = held.check().map_or_else(|lost| lost.to_string(), |()| "it is lost".to_owned());
                Failure::new(exit::LOST, why)
            };
            // What is left of it is given up in the background.
            drop(held);
            match self.args.on_loss {
                AfterLoss::Exit => return Err(lost),
                AfterLoss::Restart => say(format_args!("{}; standing for election again", lost.message)),
            }
        }
    }

    /// Waits to lead. `None`: it was told to end, and there is no command that would have been run.
    async fn campaign(&self, signals: &mut Signals) -> Result<Option<Leadership>, Failure> {
        let (progress, seen) = watch::channel(None);
        let tell = |of| {
            progress.send_replace(Some(Waited { noun: "leadership", name: self.args.name.clone(), progress: of }));
        };
        let campaign = tokio::select! {
            biased;
            signal = signals.next_ending() => {
                let nothing_to_run = self.args.command.is_empty();
                return if nothing_to_run { Ok(None) } else { Err(Failure::signal(signal.as_raw())) };
            }
            campaign = self.election.campaign_with_progress(None, tell) => campaign,
            never = waiting::report(&self.leases, seen, self.args.voice) => match never {},
        };
        campaign.map(Some).map_err(|error| match error {
            AcquireError::Api { source, .. } => backend::refused(&source, &VERBS),
            error => Failure::new(exit::INTERNAL, chain(&error)),
        })
    }

    async fn work(
        &self,
        held: &Held,
        signals: &mut Signals,
        program: &[std::ffi::OsString],
    ) -> Result<(Ended, bool), Failure> {
        let work = Work {
            command: program,
            environment: held.environment([self.args.name.as_str()], &self.namespace),
            grace: self.args.grace().map_err(Failure::usage)?,
            lease_duration: self.args.lease_duration,
            terminal: self.terminal.as_ref(),
            reaper: &self.reaper,
        };
        supervise::run(held, signals, &work).await
    }

    /// Hands the leadership on, when the command has ended or there is none.
    async fn step_down(&self, held: Held, code: u8) -> Result<u8, Failure> {
        match held.let_go(None).await {
            Released::Lost(lost) if self.args.command.is_empty() => {
                say(lost);
                Ok(code)
            }
            Released::Lost(lost) => {
                let message = format!("the command ended with exit code {code}, perhaps without leading: {lost}");
                Err(Failure::new(exit::LOST, message))
            }
            Released::Unclear(why) => {
                say(format_args!("{why}; at the latest another leads in {:?}", self.args.lease_duration));
                Ok(code)
            }
            Released::Cleanly => Ok(code),
        }
    }
}
