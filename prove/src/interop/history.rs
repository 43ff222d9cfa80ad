//! What the contenders said, and whether that can be.
//!
//! A leader says again and again that it believes in its lead, each time with the time. From these lines come *turns*,
//! and [`check`] judges them. Nothing here reads a clock or talks to anybody.

use std::time::Duration;

use leasehold::protocol::Moment;

#[cfg(test)]
mod tests;

/// Whose leader election a contender runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This project's client.
    Ours,
    /// client-go's `leaderelection`.
    ClientGo,
}

/// A contender's stay in the lead: from the first to the last time at which it said that it believed in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose election it runs.
    pub side: Side,
    /// The contender's name.
    pub who: String,
    /// It had been told that it leads.
    pub begun: Moment,
    /// It still believed in it.
    pub until: Moment,
    /// The fencing token, on our side.
    pub token: Option<u64>,
}

/// What one contender said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its turns.
    pub turns: Vec<Turn>,
    /// What a client-go leader believed that had not been able to renew for so long that it may have been passed over.
    pub late: Vec<Turn>,
}

/// Makes turns of what one contender says.
#[derive(Clone, Debug)]
pub struct Teller {
    side: Side,
    who: String,
    good_for: Duration,
    /// When the last renewal of client-go's was sent.
    renewed: Moment,
    turn: Option<Turn>,
    late: Option<Turn>,
    said: Said,
}

impl Teller {
    /// For a contender that has said nothing yet.
    ///
    /// client-go means its leaders to give up `good_for` after their last renewal was sent, but one that has been stopped
    /// does not until it has noticed; nor does one whose acquisition was answered while it was stopped. What such a leader
    /// says is kept apart. Our side is taken at its word whatever happened to it.
    #[must_use]
    pub fn new(side: Side, who: &str, good_for: Duration) -> Self {
        Self {
            side,
            who: who.to_owned(),
            good_for,
            renewed: Moment::default(),
            turn: None,
            late: None,
            said: Said::default(),
        }
    }

    /// Takes in a line.
    ///
    /// # Errors
    /// Where a line that tells of leading cannot be read.
    pub fn hear(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<_> = line.split(' ').collect();
        let number = |index: usize| -> Result<u64, String> {
            let number = words.get(index).and_then(|number| number.parse().ok());
            number.ok_or_else(|| format!("{} said {line:?}", self.who))
        };
        let at = |index| Ok::<_, String>(Moment::from_start(Duration::from_nanos(number(index)?)));
        match (words[0], self.side) {
            ("leading", Side::Ours) => {
                let (at, token) = (at(1)?, number(2)?);
                self.end();
                self.believed(at, Some(token));
            }
            ("still", Side::Ours) if self.turn.is_none() => {
                return Err(format!("{} said {line:?} without having begun to lead", self.who));
            }
            ("still", Side::Ours) => self.believed(at(1)?, None),
            ("leading" | "still", Side::ClientGo) => {
                let (at, renewed) = (at(1)?, at(2)?);
                // Without a renewal in time it may have been passed over, and have got the Lease anew without noticing.
                if words[0] == "leading" || renewed > self.renewed + self.good_for {
                    self.end();
                }
                self.renewed = renewed;
                if at > renewed + self.good_for { self.believed_late(at) } else { self.believed(at, None) }
            }
            // It was over before.
            ("stopped", _) => self.end(),
            _ => {}
        }
        Ok(())
    }

    fn believed(&mut self, at: Moment, token: Option<u64>) {
        self.said.late.extend(self.late.take());
        let (side, who) = (self.side, &self.who);
        self.turn.get_or_insert_with(|| Turn { side, who: who.clone(), begun: at, until: at, token }).until = at;
    }

    fn believed_late(&mut self, at: Moment) {
        self.said.turns.extend(self.turn.take());
        let (side, who) = (self.side, &self.who);
        self.late.get_or_insert_with(|| Turn { side, who: who.clone(), begun: at, until: at, token: None }).until = at;
    }

    /// The contender's lead at present, as far as it has said.
    #[must_use]
    pub fn leads(&self) -> Option<&Turn> {
        self.turn.as_ref()
    }

    /// All that it said. It has ended, and says nothing more.
    #[must_use]
    pub fn finish(mut self) -> Said {
        self.end();
        self.said
    }

    fn end(&mut self) {
        self.said.turns.extend(self.turn.take());
        self.said.late.extend(self.late.take());
    }
}

/// The Lease, as it was read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// `spec.holderIdentity`.
    pub holder: String,
}

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What they said, in any order.
    pub said: Said,
    /// When a contender had been killed.
    pub kills: Vec<Moment>,
    /// In the order of reading.
    pub sights: Vec<Sight>,
    /// The end of the run.
    pub end: Moment,
}

impl History {
    /// Adds what a contender said.
    pub fn take_in(&mut self, said: Said) {
        self.said.turns.extend(said.turns);
        self.said.late.extend(said.late);
    }
}

/// What a history shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Turns of our side.
    pub ours: usize,
    /// Turns of client-go's.
    pub client_go: usize,
    /// How often a turn of ours was followed by one of client-go's.
    pub ours_to_client_go: usize,
    /// How often a turn of client-go's was followed by one of ours.
    pub client_go_to_ours: usize,
    /// How often a leader was killed.
    pub killed_leaders: usize,
    /// The longest time from a leader's death to the next turn.
    pub worst_after_kill: Duration,
    /// The longest time without a leader.
    pub worst_gap: Duration,
    /// How often a leader of client-go's believed in its lead for longer than its last renewal was good for.
    pub woke_late: usize,
    /// How often somebody else led then.
    pub woke_late_beside_another: usize,
    /// What must not be.
    pub violations: Vec<String>,
}

/// Judges a history. After a leader's death somebody has to lead within `patience`.
#[must_use]
pub fn check(history: &History, patience: Duration) -> Findings {
    let mut turns: Vec<&Turn> = history.said.turns.iter().collect();
    turns.sort_by_key(|turn| turn.begun);
    let mut findings = Findings::default();
    one_leader_at_a_time(&turns, &mut findings);
    tokens_grow(&turns, &mut findings);
    transitions_grow(&history.sights, &mut findings);
    dead_leaders_are_followed(history, &turns, patience, &mut findings);
    for late in &history.said.late {
        findings.woke_late += 1;
        let beside = turns.iter().any(|turn| turn.begun <= late.until && late.begun <= turn.until);
        findings.woke_late_beside_another += usize::from(beside);
    }
    findings
}

fn one_leader_at_a_time(turns: &[&Turn], findings: &mut Findings) {
    let mut last: Option<&Turn> = None;
    for turn in turns {
        match turn.side {
            Side::Ours => findings.ours += 1,
            Side::ClientGo => findings.client_go += 1,
        }
        if let Some(last) = last {
            match (last.side, turn.side) {
                (Side::Ours, Side::ClientGo) => findings.ours_to_client_go += 1,
                (Side::ClientGo, Side::Ours) => findings.client_go_to_ours += 1,
                _ => {}
            }
            findings.worst_gap = findings.worst_gap.max(turn.begun.since(last.until));
            if turn.begun <= last.until {
                findings.violations.push(format!(
                    "two leaders: {} from {} to {}, {} from {} to {} (seconds of CLOCK_BOOTTIME)",
                    last.who,
                    seconds(last.begun),
                    seconds(last.until),
                    turn.who,
                    seconds(turn.begun),
                    seconds(turn.until),
                ));
            }
        }
        if last.is_none_or(|last| turn.until >= last.until) {
            last = Some(turn);
        }
    }
}

fn tokens_grow(turns: &[&Turn], findings: &mut Findings) {
    let ours: Vec<_> = turns.iter().filter_map(|turn| Some((turn, turn.token?))).collect();
    for pair in ours.windows(2) {
        let ((before, smaller), (after, larger)) = (pair[0], pair[1]);
        if larger <= smaller {
            findings.violations.push(format!(
                "tokens do not grow: {} had {smaller}, and after it, from {}, {} had {larger}",
                before.who,
                seconds(after.begun),
                after.who,
            ));
        }
    }
}

fn transitions_grow(sights: &[Sight], findings: &mut Findings) {
    for pair in sights.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let passed = !after.holder.is_empty() && after.holder != before.holder;
        let grown = after.transitions - before.transitions;
        if before.uid == after.uid && (grown < 0 || (passed && grown == 0)) {
            findings.violations.push(format!(
                "leaseTransitions do not grow: {} with {:?} at version {}, {} with {:?} at version {}",
                before.transitions, before.holder, before.version, after.transitions, after.holder, after.version,
            ));
        }
    }
}

fn dead_leaders_are_followed(history: &History, turns: &[&Turn], patience: Duration, findings: &mut Findings) {
    for (index, &kill) in history.kills.iter().enumerate() {
        // If somebody else led all the while, it was not the leader who was killed.
        if turns.iter().any(|turn| turn.begun <= kill && kill < turn.until) {
            continue;
        }
        let followed = turns.iter().map(|turn| turn.begun).find(|begun| *begun > kill);
        let gap = followed.unwrap_or(history.end).since(kill);
        if followed.is_some() {
            findings.killed_leaders += 1;
            findings.worst_after_kill = findings.worst_after_kill.max(gap);
        }
        if gap > patience {
            let number = index + 1;
            let at = seconds(kill);
            findings
                .violations
                .push(format!("kill {number}, at {at}: nobody led for {gap:.1?}, and not {patience:.1?}"));
        }
    }
}

fn seconds(at: Moment) -> String {
    format!("{:.6}", at.since_start().as_secs_f64())
}
