//! What may happen to a lock's Lease: rules that every single write is judged by.

mod shared;

use std::fmt;

use leasehold::protocol::record::Waiter;
use leasehold::protocol::{HolderId, Kind, Liveness, Record, SessionId, Write, write};

use crate::model::is_left_over;

pub(super) use self::shared::Heads;

/// Who sent a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// A client's process, by the name of its host.
    Process(String),
    Operator,
    /// Somebody by hand. What they do is excepted from every rule.
    Person,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(host) => f.write_str(host),
            Self::Operator => f.write_str("operator"),
            Self::Person => f.write_str("a person"),
        }
    }
}

impl Author {
    pub(super) fn is(&self, session: &SessionId) -> bool {
        matches!(self, Self::Process(host) if host == session.host())
    }
}

/// One write to a lock's Lease that was carried out.
pub(super) struct Change<'a> {
    pub(super) before: Option<Record>,
    pub(super) after: Option<Record>,
    pub(super) author: &'a Author,
    /// Whether the session's Lease stands there and has not been ended.
    pub(super) alive: &'a dyn Fn(&SessionId) -> bool,
}

impl Change<'_> {
    /// The first rule that it breaks.
    pub(super) fn judge(&self) -> Result<(), String> {
        if *self.author == Author::Person {
            return Ok(());
        }
        if self.before.iter().chain(&self.after).any(|record| record.kind != Kind::Lock) {
            return self.judge_shared();
        }
        self.a_session_is_ended_before_its_locks_are_taken()?;
        self.waiters_are_served_in_the_order_of_their_joins()?;
        self.nobody_else_removes_a_living_waiter()?;
        self.a_ticket_is_written_once()?;
        self.tenancies_are_told_apart_and_tokens_grow()
    }

    fn holder(record: Option<&Record>) -> Option<&HolderId> {
        record.and_then(|record| record.holder.as_ref()).and_then(|holder| holder.id.as_ref())
    }

    fn a_session_is_ended_before_its_locks_are_taken(&self) -> Result<(), String> {
        let Some(before) = &self.before else { return Ok(()) };
        let Some(Liveness::Session(session)) = before.holder.as_ref().map(|holder| &holder.liveness) else {
            return Ok(());
        };
        let kept = Self::holder(self.after.as_ref()) == Self::holder(Some(before));
        if kept || self.author.is(session) || !(self.alive)(session) {
            return Ok(());
        }
        Err(format!("{session} was evicted though its session has not been ended"))
    }

    fn waiters_are_served_in_the_order_of_their_joins(&self) -> Result<(), String> {
        let (Some(before), Some(next)) = (&self.before, Self::holder(self.after.as_ref())) else { return Ok(()) };
        if Self::holder(Some(before)) == Some(next) {
            return Ok(());
        }
        let ahead = before.waiters.iter().take_while(|waiter| waiter.id != *next);
        // Whoever writes may pass over what is left of itself.
        let overtaken = |waiter: &&Waiter| !self.author.is(&waiter.id.session) && (self.alive)(&waiter.id.session);
        match ahead.filter(|waiter| waiter.id.session != next.session).find(overtaken) {
            Some(waiter) => Err(format!("{next} overtook {}, who lives and joined before", waiter.id)),
            None => Ok(()),
        }
    }

    fn nobody_else_removes_a_living_waiter(&self) -> Result<(), String> {
        let Some(before) = &self.before else { return Ok(()) };
        let gone = |waiter: &&Waiter| {
            let after = self.after.as_ref();
            !after.is_some_and(|after| after.waiters.contains(waiter) || after.is_held_by(&waiter.id))
        };
        let mut removed = before.waiters.iter().filter(gone);
        match removed.find(|waiter| !self.author.is(&waiter.id.session) && (self.alive)(&waiter.id.session)) {
            Some(waiter) => Err(format!("{} was taken out of the queue, or lost its ticket", waiter.id)),
            None => Ok(()),
        }
    }

    fn a_ticket_is_written_once(&self) -> Result<(), String> {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return Ok(()) };
        for waiter in &before.waiters {
            let another = |now: &&Waiter| now.id == waiter.id && now.ticket != waiter.ticket;
            if after.waiters.iter().find(another).is_some_and(|now| !is_left_over(before, after, now)) {
                return Err(format!("{} got another ticket", waiter.id));
            }
        }
        Ok(())
    }

    fn tenancies_are_told_apart_and_tokens_grow(&self) -> Result<(), String> {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return Ok(()) };
        if before.uid != after.uid {
            return Err("a Lease changed its uid".to_owned());
        }
        let (old, new) = (&before.holder, &after.holder);
        if old.as_ref().map(|holder| &holder.identity) == new.as_ref().map(|holder| &holder.identity) {
            return Ok(());
        }
        if after.transitions != write::next_transition(before.transitions) {
            return Err("holders changed without a new tenancy".to_owned());
        }
        let token = |holder: &Option<leasehold::protocol::Holder>| holder.as_ref().and_then(|holder| holder.token);
        match (token(old), token(new)) {
            (Some(last), Some(token)) if token <= last => Err(format!("token {token} came after token {last}")),
            (_, Some(token)) if token <= before.version.0 => Err(format!("token {token} is not new")),
            (_, None) if new.is_some() => Err("a holder came without a token".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A write, for people.
pub(super) fn tell(name: &str, write: &Write) -> String {
    match write {
        Write::Create(lease) => format!("POST {name} holder {}", holder(lease)),
        Write::Replace(lease) => format!(
            "PUT {name} at {} holder {:?}",
            lease.metadata.resource_version.as_deref().unwrap_or("any"),
            holder(lease)
        ),
        Write::Patch(patch) => {
            let change = |operation: &json_patch::PatchOperation| {
                let json = serde_json::to_value(operation).unwrap_or_default();
                let place = json["path"].as_str().unwrap_or_default().trim_start_matches("/metadata/annotations/");
                let place = place.trim_start_matches("/spec/").trim_start_matches("/metadata/").replace("~1", "/");
                let value = if json["value"].is_null() { String::new() } else { format!("={}", json["value"]) };
                format!("{} {place}{value}", json["op"].as_str().unwrap_or_default())
            };
            format!("PATCH {name} [{}]", patch.0.iter().map(change).collect::<Vec<_>>().join(", "))
        }
        Write::Delete { version, .. } => format!("DELETE {name} at {version}"),
    }
}

fn holder(lease: &k8s_openapi::api::coordination::v1::Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}
