//! One, for a person.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{HolderView, LockView, NOTHING, PermitsView, RequestView, Style, printable, when};

struct Text {
    text: String,
    style: Style,
}

impl Text {
    fn line(&mut self, indent: &str, key: &str, value: &str) {
        let key = self.style.bold(&format!("{key}:")) + &" ".repeat(10_usize.saturating_sub(key.len()));
        let _ = writeln!(self.text, "{indent}{key}{value}");
    }
}

/// What there is to say of it.
pub(crate) fn describe(lock: &LockView, style: Style, now: Timestamp) -> String {
    let mut text = Text { text: String::new(), style };
    text.line("", "Name", &printable(&lock.name));
    if lock.lease_name != lock.name {
        text.line("", "Lease", &lock.lease_name);
    }
    text.line("", "Namespace", &lock.namespace);
    text.line("", "Kind", lock.kind);
    text.line("", "State", &format!("{:?}", lock.state));
    if let Some(PermitsView { total, held, available }) = lock.permits {
        text.line("", "Permits", &format!("{held} of {total} held, {available} free"));
    }
    match &lock.holders[..] {
        [] => {}
        [holder] => of_holder(&mut text, "", holder, now),
        holders => {
            text.line("", "Holders", &holders.len().to_string());
            for holder in holders {
                of_holder(&mut text, "  ", holder, now);
            }
        }
    }
    if let Some(upgrading) = &lock.upgrading {
        text.line("", "Upgrading", upgrading);
    }
    text.line("", "Waiters", &lock.waiters.len().to_string());
    for (place, waiter) in lock.waiters.iter().enumerate() {
        let wants = waiter.wants.as_ref().map_or(String::new(), |wants| format!(", wants {wants}"));
        let _ = writeln!(text.text, "  {}. {} ({}){wants}", place + 1, waiter.host, waiter.identity);
    }
    text.text
}

fn of_holder(text: &mut Text, indent: &str, holder: &HolderView, now: Timestamp) {
    match &holder.host {
        Some(host) => text.line(indent, "Holder", &printable(&format!("{host} ({})", holder.identity))),
        None => text.line(indent, "Holder", &printable(&holder.identity)),
    }
    if let Some(share) = &holder.share {
        text.line(indent, "Share", share);
    }
    text.line(indent, "Since", &holder.since.map_or(NOTHING.to_owned(), |since| when(since, now)));
    if let Some(token) = holder.token {
        text.line(indent, "Token", &token.to_string());
    }
    if let Some(session) = &holder.session {
        text.line(indent, "Liveness", &format!("by its session, Lease {session}"));
    }
    match (holder.lease_duration_seconds, holder.kept) {
        (Some(seconds), true) => text.line(indent, "Liveness", &format!("left here for {seconds}s by its process")),
        (Some(seconds), false) => text.line(indent, "Liveness", &format!("by its own renewals, for {seconds}s each")),
        (None, _) => {}
    }
    // Others wrote these: they may not do anything to a terminal.
    if let Some(payload) = &holder.payload {
        text.line(indent, "Payload", &payload.escape_debug().to_string());
    }
    if let Some(RequestView { by, within_seconds, reason }) = &holder.release_request {
        let request = format!("by {by} to let go within {within_seconds}s: {reason}");
        text.line(indent, "Asked", &request.escape_debug().to_string());
    }
}
