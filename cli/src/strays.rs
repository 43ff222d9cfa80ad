//! What a command has started and left to this process: orphans are reaped, and found where they have left the command's
//! group.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leasehold::clock::moment;
use leasehold::protocol::Moment;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, waitpid};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::timeout;

/// How long what this program has started itself is left to whoever waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reaps orphans, but for the command itself, of whose end its [`Child`](crate::child::Child) is to hear.
///
/// As the first process of a container this one inherits what its descendants leave behind. It asks for the same elsewhere,
/// so that nothing that a command started gets out of sight.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    command: Arc<Mutex<Option<Pid>>>,
}

impl Reaper {
    pub(crate) fn begin() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(getpid()))?;
        let reaper = Self { command: Arc::default() };
        let mut changes = unix::signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            let mut left = None;
            loop {
                left = reaping.reap(left);
                match left {
                    Some(_) => drop(timeout(PATIENCE, changes.recv()).await),
                    None => drop(changes.recv().await),
                }
            }
        });
        Ok(reaper)
    }

    /// One that reaps nothing: tests of one program are each other's parents.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        Self { command: Arc::default() }
    }

    /// Nothing is reaped as long as this is kept. What is written to it is the command.
    pub(crate) fn pause(&self) -> MutexGuard<'_, Option<Pid>> {
        self.command.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaps all but what others are to wait for, and returns one of those, with the time since which it is left to them.
    ///
    /// What this program has started itself (a plugin that fetches credentials) stays in its group, and is waited for where
    /// it was started, at once. What is still there after a while is an orphan as well.
    fn reap(&self, left: Option<(Pid, Moment)>) -> Option<(Pid, Moment)> {
        let command = self.pause();
        while let Some(ended) = next_ended() {
            if *command == Some(ended) {
                return left;
            }
            let since = left.filter(|(pid, _)| *pid == ended).map_or(moment(), |(_, since)| since);
            let ours = group_of(ended.as_raw_nonzero().get()) == group_of(0);
            if ours && moment().since(since) < PATIENCE {
                return Some((ended, since));
            }
            if !matches!(waitpid(Some(ended), WaitOptions::NOHANG), Ok(Some(_))) {
                return None;
            }
        }
        None
    }
}

/// The process group of a process, or of this one for 0. It is 0 where the group was begun outside of a container that
/// knows nothing of it.
#[expect(unsafe_code, reason = "the safe interface knows no group 0")]
pub(crate) fn group_of(process: i32) -> i32 {
    // SAFETY: it has no precondition.
    unsafe { libc::getpgid(process) }
}

/// A child of this process that has ended. It stays for others to wait for.
#[expect(unsafe_code, reason = "the safe interface does not say which process it is")]
fn next_ended() -> Option<Pid> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: it is large enough, and all zeroes is a valid value, which stays where nobody has ended.
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) != 0 {
            return None;
        }
        info.assume_init().si_pid()
    };
    Pid::from_raw(pid)
}

/// All that descends from this process and runs, with their process groups, but for what it has started in its own.
///
/// Linux only: elsewhere nobody is found.
pub(crate) fn all() -> Vec<(Pid, i32)> {
    let (own, group) = (getpid().as_raw_nonzero().get(), group_of(0));
    // Where another namespace's processes are shown, their numbers are not those of this one.
    if fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse::<i32>().ok()) != Some(own) {
        return Vec::new();
    }
    let mut children: BTreeMap<i32, Vec<(i32, Option<i32>)>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = stat else { continue };
        if let Some((state, parent, of_group)) =
            fs::read_to_string(entry.path().join("stat")).ok().and_then(|s| parse(&s))
        {
            let counts = of_group != group && !matches!(state, 'Z' | 'X');
            children.entry(parent).or_default().push((pid, counts.then_some(of_group)));
        }
    }
    let (mut open, mut seen, mut found) = (vec![own], BTreeSet::from([own]), Vec::new());
    while let Some(parent) = open.pop() {
        for &(pid, counts) in children.get(&parent).into_iter().flatten().filter(|(pid, _)| seen.insert(*pid)) {
            open.push(pid);
            found.extend(Pid::from_raw(pid).zip(counts));
        }
    }
    found
}

/// State, parent and process group, which stand behind the name, which stands in brackets.
fn parse(stat: &str) -> Option<(char, i32, i32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Sends a signal to a process group, and once, as many take a second one for an order to end at once, to all those who
/// are not in it.
pub(crate) fn signal_all(group: Pid, signal: Signal) {
    // There may be nobody left.
    let _ = kill_process_group(group, signal);
    for (pid, of_group) in all() {
        if of_group != group.as_raw_nonzero().get() {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Tests of one program are each other's parents too: whoever starts what has a group of its own, or signals what there is,
/// does so while nobody else does.
#[cfg(test)]
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_brackets_and_spaces() {
        assert_eq!(parse("7 (a) b (c) S 3 4 5 0"), Some(('S', 3, 4)));
        assert_eq!(parse("nothing"), None);
    }
}
