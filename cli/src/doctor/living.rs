//! Who holds and waits: whether they live, as far as one look or a watch can tell.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use leasehold::protocol::record::{ENDED_BY, JOIN, WANT};
use leasehold::protocol::{Holder, LONGEST_SESSION, Liveness, Reclaim, Record, SessionId, Waiter};

use super::census::{Life, Sight, place_of, told};
use super::forms::{is_labelled, whole};
use super::report::{Finding, Object, Verdict};
use super::server::CLOCK;
use super::site::Site;
use crate::view::name_to_type;

pub(super) const HOLDERS: &str = "holders";
pub(super) const WAITERS: &str = "waiters";

/// So many waiters are named.
const NAMED: usize = 5;
const ONLY_A_LOOK: &str = "one look cannot tell whether it is dead";

pub(super) fn judge(site: &Site, sight: &Sight) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut holders, mut waiters) = (0, 0);
    for record in &sight.census.locks {
        holders += record.holders().count();
        waiters += record.waiters.len();
        let of_record = record.holders().filter_map(|holder| of_holder(site, sight, record, holder));
        found.extend(of_record.map(|one| one.typed_only_if(is_labelled(record))));
    }
    let says = |count: usize, none: &str, one: &str, many: &str| {
        let who = match count {
            0 => return none.to_owned(),
            1 => one.to_owned(),
            count => format!("{count} {many}"),
        };
        match sight.watched() {
            Some(time) => format!("{who}, and nobody was silent while this watched for {time:.0?}"),
            None => format!("{who}, and all was renewed lately, by its own timestamps"),
        }
    };
    if found.is_empty() {
        found.push(Finding::ok(HOLDERS, whole(site), says(holders, "nobody holds anything", "1 holds", "hold")));
    }
    let before = found.len();
    for record in &sight.census.locks {
        found.extend(of_waiters(site, sight, record).into_iter().map(|one| one.typed_only_if(is_labelled(record))));
    }
    if found.len() == before {
        found.push(Finding::ok(WAITERS, whole(site), says(waiters, "nobody waits", "1 waits", "wait")));
    }
    found.extend(ahead(sight));
    found
}

/// A lock as people call it, in its namespace.
struct Named<'a> {
    site: &'a Site,
    namespace: String,
    lease: String,
    /// `None`: what was named in a command would be another.
    name: Option<String>,
}

impl<'a> Named<'a> {
    fn new(site: &'a Site, record: &Record) -> Self {
        let (namespace, lease) = place_of(&record.lease);
        let name = name_to_type(record).map(str::to_owned);
        Self { site, namespace, lease, name }
    }

    fn finding(&self, check: &'static str, verdict: Verdict, says: String) -> Finding {
        Finding::new(check, verdict, Object::lease(&self.namespace, &self.lease), says)
    }

    fn break_it(&self, holder: &str) -> Option<String> {
        let name = self.name.as_deref()?;
        let words = ["leasehold", "break", name, "--holder", holder, "--reason", "its process is dead"];
        Some(self.site.kubectl(Some(&self.namespace), &words))
    }

    /// With the command that watches for so long that it can be told, where anybody would wait for that.
    fn watch(&self, finding: Finding, duration: Duration) -> Finding {
        if duration >= super::LONGEST_WATCH {
            return finding;
        }
        let watch = format!("{}s", duration.as_secs() + 1);
        let words = ["leasehold", "doctor", "--watch-for", &watch];
        finding.command(self.site.kubectl(Some(&self.namespace), &words))
    }
}

fn of_holder(site: &Site, sight: &Sight, record: &Record, holder: &Holder) -> Option<Finding> {
    let named = Named::new(site, record);
    let who = &holder.identity;
    match &holder.liveness {
        Liveness::Session(session) => of_session_holder(&named, sight, record, who, session),
        Liveness::Own(duration) => {
            let life = sight.of_own(record, holder, *duration);
            of_own_holder(&named, record, holder, *duration, life)
        }
    }
}

fn of_session_holder(
    named: &Named<'_>,
    sight: &Sight,
    record: &Record,
    who: &str,
    session: &SessionId,
) -> Option<Finding> {
    let lease = session.lease_name();
    let place = (named.namespace.clone(), lease.clone());
    let seen = sight.census.sessions.get(&place);
    let watch = match record.policy.reclaim {
        Reclaim::Never => {
            "watch it for as long as a session lasts; its policy is reclaim: Never, so only a break ends it"
        }
        _ => "watch it for as long as a session lasts; the operator, or whoever waits, does so and takes it over",
    };
    let says = match sight.of_session(&named.namespace, session) {
        Life::Alive => return None,
        Life::Ended => {
            let by = seen.and_then(|seen| seen.lease.metadata.annotations.as_ref()?.get(ENDED_BY));
            let by = by.map_or(String::new(), |by| format!(" (by {by})"));
            format!("it is held by {who}, whose session has ended{by}")
        }
        Life::Absent => {
            let says = format!(
                "it is held by {who}, whose session is not there (Lease {lease}): it counts as dead after a minute; {ONLY_A_LOOK}"
            );
            return Some(named.watch(named.finding(HOLDERS, Verdict::Warning, says).fix(watch), LONGEST_SESSION));
        }
        Life::Gone => {
            format!("it is held by {who}, whose session was not there for a minute while this watched (Lease {lease})")
        }
        Life::Dead => {
            let time = seen.map_or(60, |seen| seen.duration.as_secs());
            format!(
                "it is held by {who}, whose session was not renewed for the whole of its {time}s while this watched"
            )
        }
        Life::Silent(age) => {
            let duration = seen.map_or(LONGEST_SESSION, |seen| seen.duration);
            let says = format!(
                "it is held by {who}, whose session has not been renewed for {}, by its own timestamps; {ONLY_A_LOOK}",
                told(age)
            );
            return Some(named.watch(named.finding(HOLDERS, Verdict::Warning, says).fix(watch), duration));
        }
        Life::Unknown => {
            let says = format!("it is held by {who}, whose session (Lease {lease}) cannot be read here");
            return Some(
                named
                    .finding(HOLDERS, Verdict::Warning, says)
                    .fix("upgrade this program, or see what stands on that Lease"),
            );
        }
    };
    let fix = match record.policy.reclaim {
        Reclaim::Never => {
            "its policy is reclaim: Never, so only a break ends it: see that what it did is whole, then break it"
        }
        _ if !record.waiters.is_empty() => {
            "whoever waits, or the operator, takes it over; if that does not come about, break it"
        }
        _ => {
            "the operator, or who waits for it next, takes it over; what only tries (--no-wait) does not: then break it"
        }
    };
    Some(named.finding(HOLDERS, Verdict::Warning, says).fix(fix).command(named.break_it(who)))
}

fn of_own_holder(
    named: &Named<'_>,
    record: &Record,
    holder: &Holder,
    duration: Duration,
    life: Life,
) -> Option<Finding> {
    let (who, seconds) = (&holder.identity, duration.as_secs());
    let verdict = if record.waiters.is_empty() { Verdict::Note } else { Verdict::Warning };
    let takes = "who wants it next watches it for that long and takes it over, and so does the operator";
    match life {
        Life::Dead if holder.kept => {
            let says =
                format!("what {who} has left held for {seconds}s was not taken over while this watched for as long");
            Some(named.finding(HOLDERS, verdict, says).fix(takes).command(named.break_it(who)))
        }
        Life::Dead => {
            let says = format!(
                "{who} did not renew it for the whole of its {seconds}s while this watched, and nobody took it over"
            );
            Some(named.finding(HOLDERS, verdict, says).fix(takes).command(named.break_it(who)))
        }
        Life::Silent(age) => {
            let what = if holder.kept { "was left held for" } else { "lives by renewals of" };
            let says = format!(
                "{who} holds it, which {what} {seconds}s, and the last was {} ago by its own timestamp; {ONLY_A_LOOK}",
                told(age)
            );
            Some(named.watch(named.finding(HOLDERS, verdict, says).fix(takes), duration))
        }
        Life::Alive | Life::Ended | Life::Absent | Life::Gone | Life::Unknown => None,
    }
}

fn of_waiters(site: &Site, sight: &Sight, record: &Record) -> Vec<Finding> {
    let named = Named::new(site, record);
    let mut gone: Vec<&Waiter> = Vec::new();
    let mut absent: Vec<&Waiter> = Vec::new();
    let mut silent: Vec<&Waiter> = Vec::new();
    for waiter in &record.waiters {
        match sight.of_session(&named.namespace, &waiter.id.session) {
            Life::Ended | Life::Gone | Life::Dead => gone.push(waiter),
            Life::Absent => absent.push(waiter),
            Life::Silent(_) => silent.push(waiter),
            Life::Alive | Life::Unknown => {}
        }
    }
    let of = record.waiters.len();
    let mut found = Vec::new();
    if !gone.is_empty() {
        let says = format!("{} of {of} who wait for it are gone, by their sessions: {}", gone.len(), some(&gone));
        let keys =
            gone.iter().take(NAMED).flat_map(|waiter| [format!("{JOIN}{}", waiter.id), format!("{WANT}{}", waiter.id)]);
        let there = record.lease.metadata.annotations.as_ref();
        let keys = keys.filter(|key| there.is_some_and(|there| there.contains_key(key)));
        let keys: Vec<String> = keys.map(|key| format!("{key}-")).collect();
        let mut words = vec!["annotate", "lease", &named.lease];
        words.extend(keys.iter().map(String::as_str));
        let finding = named.finding(WAITERS, Verdict::Warning, says);
        // Who is folded has no key to take off.
        let finding = if keys.is_empty() {
            finding.fix("they are passed over when it is next handed on, and the operator takes them off")
        } else {
            finding
                .fix(
                    "they are passed over when it is next handed on, and the operator takes them off; or do it by hand",
                )
                .command(site.kubectl(Some(&named.namespace), &words))
        };
        found.push(finding.for_the_operator(site));
    }
    if !absent.is_empty() {
        let says = format!(
            "{} of {of} who wait for it have no sessions: {}; they count as dead after a minute",
            absent.len(),
            some(&absent)
        );
        let finding = named.finding(WAITERS, Verdict::Warning, says);
        found.push(named.watch(finding.fix("watch them for a minute; the dead are passed over"), LONGEST_SESSION));
    }
    if !silent.is_empty() {
        let says = format!(
            "{} of {of} who wait for it have not renewed their sessions in time, by their own timestamps: {}; {ONLY_A_LOOK}",
            silent.len(),
            some(&silent)
        );
        let finding = named.finding(WAITERS, Verdict::Note, says);
        let finding = finding.fix("watch them for as long as a session lasts; the dead are passed over");
        found.push(named.watch(finding, LONGEST_SESSION));
    }
    found
}

/// The first of them, and how many more there are.
fn some(waiters: &[&Waiter]) -> String {
    let more = waiters.len().saturating_sub(NAMED);
    let first = waiters.iter().take(NAMED).map(|waiter| waiter.id.to_string()).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// Timestamps in the future: the clock of whoever wrote them is wrong, or the API server's. One for each host.
fn ahead(sight: &Sight) -> Vec<Finding> {
    let mut by_host: BTreeMap<String, (SignedDuration, Object)> = BTreeMap::new();
    let mut note = |host: &str, object: Object, ahead: Option<SignedDuration>| {
        let Some(ahead) = ahead else { return };
        let worst = by_host.entry(host.to_owned()).or_insert_with(|| (ahead, object.clone()));
        if ahead > worst.0 {
            *worst = (ahead, object);
        }
    };
    for ((namespace, name), session) in &sight.census.sessions {
        let renewed = session.lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        note(session.id.host(), Object::lease(namespace, name), renewed.and_then(|time| sight.ahead(time.0)));
    }
    for record in &sight.census.locks {
        let (namespace, name) = place_of(&record.lease);
        for holder in record.holders() {
            let host = holder.id.as_ref().map_or(&*holder.identity, |id| id.session.host());
            let ahead = holder.renewed.and_then(|renewed| sight.ahead(renewed));
            note(host, Object::lease(&namespace, &name), ahead);
        }
    }
    let than = if sight.clock.is_some() { "the API server's" } else { "this machine's" };
    by_host
        .into_iter()
        .map(|(host, (ahead, object))| {
            let says = format!(
                "its renewTime is {} later than {than} clock: the clock of {host} is ahead. That hurts only where \
                 max_clock_skew is used, and other clients that read timestamps",
                told(ahead)
            );
            Finding::new(CLOCK, Verdict::Note, object, says).fix(format!("synchronise the clock of {host} (NTP)"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::census::tests::{NOW, lock, session, sight, watched};
    use super::*;

    const LONG_AGO: &str = "2026-11-22T05:50:00.000000Z";

    fn bad(sight: &Sight) -> Vec<Finding> {
        judge(&Site::example(), sight).into_iter().filter(|one| one.verdict != Verdict::Ok).collect()
    }

    fn held(session: Option<Value>) -> Vec<Value> {
        [Some(lock("a", "web-0_x1.1", json!({}))), session].into_iter().flatten().collect()
    }

    #[test]
    fn a_holder_that_renews_is_in_order() {
        let leases = held(Some(session("session-web-0.x1", "web-0_x1", "2026-11-22T05:59:55.000000Z")));
        assert_eq!(bad(&sight(&leases)), []);
        let all = judge(&Site::example(), &sight(&leases));
        assert!(all[0].says.starts_with("1 holds, and all was renewed lately"), "{all:?}");
    }

    #[test]
    fn a_silent_holder_is_told_with_care_and_a_watched_one_for_certain() {
        let leases = held(Some(session("session-web-0.x1", "web-0_x1", LONG_AGO)));
        let [finding] = &bad(&sight(&leases))[..] else { panic!() };
        assert!(finding.says.contains("for 10m, by its own timestamps; one look cannot tell"), "{}", finding.says);
        assert_eq!(
            finding.command.as_deref().unwrap(),
            "kubectl leasehold doctor --watch-for 31s -n ops --context dev"
        );
        let [finding] = &bad(&watched(&leases, 30))[..] else { panic!() };
        assert!(
            finding.says.ends_with("was not renewed for the whole of its 30s while this watched"),
            "{}",
            finding.says
        );
        assert_eq!(
            finding.command.as_deref().unwrap(),
            "kubectl leasehold break a --holder web-0_x1.1 --reason 'its process is dead' -n ops --context dev"
        );
    }

    #[test]
    fn a_holder_without_a_session_is_told() {
        let [absent] = &bad(&sight(&held(None)))[..] else { panic!() };
        assert!(absent.says.contains("(Lease session-web-0.x1): it counts as dead after a minute"), "{}", absent.says);
        assert!(absent.command.as_deref().unwrap().starts_with("kubectl leasehold doctor --watch-for 61s"));
        let [gone] = &bad(&watched(&held(None), 60))[..] else { panic!() };
        assert!(gone.command.as_deref().unwrap().starts_with("kubectl leasehold break a"), "{gone:?}");
        let mut ended = session("session-web-0.x1", "", NOW);
        ended["metadata"]["annotations"]["leasehold.dev/ended-by"] = "operator x".into();
        let [ended] = &bad(&sight(&held(Some(ended))))[..] else { panic!() };
        assert_eq!(ended.says, "it is held by web-0_x1.1, whose session has ended (by operator x)");
        let mut never = held(None);
        never[0]["metadata"]["annotations"]["leasehold.dev/reclaim"] = "never".into();
        for sight in [sight(&never), watched(&never, 60)] {
            let [never] = &bad(&sight)[..] else { panic!() };
            assert!(never.fix.as_deref().unwrap().contains("only a break ends it"), "{never:?}");
        }
    }

    #[test]
    fn nothing_is_broken_by_the_name_of_another() {
        let mut leases = held(Some(session("session-web-0.x1", "web-0_x1", LONG_AGO)));
        leases[0]["metadata"]["annotations"]["leasehold.dev/id"] = "live".into();
        let [dead] = &bad(&watched(&leases, 30))[..] else { panic!() };
        assert_eq!(dead.command, None, "{dead:?}");
        leases[0]["metadata"]["annotations"] = json!({});
        leases[0]["metadata"]["name"] = "a--u5aja2xsokmdklzq54c4iifvzd".into();
        let [dead] = &bad(&watched(&leases, 30))[..] else { panic!() };
        assert_eq!(dead.command, None, "{dead:?}");
    }

    #[test]
    fn nothing_is_typed_for_what_is_of_no_kind() {
        let mut leases = held(Some(session("session-web-0.x1", "web-0_x1", LONG_AGO)));
        leases[0]["metadata"]["labels"]["leasehold.dev/kind"] = "semaphor".into();
        leases[0]["metadata"]["annotations"]["join.leasehold.dev/web-0_x1.2"] = "9".into();
        let [holder, waiter] = &bad(&watched(&leases, 30))[..] else { panic!() };
        assert_eq!((&holder.command, &waiter.command), (&None, &None));
    }

    #[test]
    fn an_election_whose_leader_is_silent_matters_to_who_waits() {
        let mut lease = lock("a", "controller-7c9_3b1f", json!({"leasehold.dev/liveness": "own"}));
        assert_eq!(bad(&sight(std::slice::from_ref(&lease))), []);
        lease["spec"]["renewTime"] = LONG_AGO.into();
        let [alone] = &bad(&sight(std::slice::from_ref(&lease)))[..] else { panic!() };
        assert_eq!(alone.verdict, Verdict::Note);
        assert!(alone.says.contains("the last was 10m ago by its own timestamp"), "{}", alone.says);
        lease["metadata"]["annotations"]["join.leasehold.dev/web-1_x2.1"] = "6".into();
        let leases = [lease, session("session-web-1.x2", "web-1_x2", NOW)];
        // Who waits has not renewed either.
        let [waited, _] = &bad(&watched(&leases, 30))[..] else { panic!() };
        assert_eq!(waited.verdict, Verdict::Warning);
        assert!(waited.says.starts_with("controller-7c9_3b1f did not renew it"), "{}", waited.says);
    }

    #[test]
    fn waiters_whose_sessions_are_over_are_told_with_what_takes_them_off() {
        let joins = json!({"join.leasehold.dev/web-1_x2.1": "5", "join.leasehold.dev/web-2_x3.1": "6"});
        let leases = [
            lock("a", "web-0_x1.1", joins),
            session("session-web-0.x1", "web-0_x1", NOW),
            session("session-web-1.x2", "web-1_x2", NOW),
        ];
        let [absent] = &bad(&sight(&leases))[..] else { panic!() };
        assert!(absent.says.starts_with("1 of 2 who wait for it have no sessions: web-2_x3.1"), "{}", absent.says);
        assert!(absent.command.as_deref().unwrap().starts_with("kubectl leasehold doctor --watch-for 61s"));
        let mut ended = leases.to_vec();
        ended.push(session("session-web-2.x3", "", NOW));
        let [gone] = &bad(&sight(&ended))[..] else { panic!() };
        assert_eq!(gone.says, "1 of 2 who wait for it are gone, by their sessions: web-2_x3.1");
        assert_eq!(
            gone.command.as_deref().unwrap(),
            "kubectl annotate lease a join.leasehold.dev/web-2_x3.1- -n ops --context dev"
        );
        let strict = Site { strict: ["ops".to_owned()].into(), ..Site::example() };
        let found = judge(&strict, &sight(&ended));
        assert!(found.iter().any(|one| one.says == gone.says && one.command.is_none()), "{found:?}");
        let mut silent = leases.to_vec();
        silent.push(session("session-web-2.x3", "web-2_x3", LONG_AGO));
        let [silent] = &bad(&sight(&silent))[..] else { panic!() };
        assert_eq!((silent.verdict, silent.check), (Verdict::Note, WAITERS));
    }

    #[test]
    fn a_clock_that_is_ahead_is_told_once_for_its_host() {
        let mut leases = vec![
            session("session-web-0.x1", "web-0_x1", "2026-11-22T06:02:00.000000Z"),
            session("session-web-0.y1", "web-0_y1", "2026-11-22T06:03:00.000000Z"),
        ];
        let [ahead] = &bad(&sight(&leases))[..] else { panic!() };
        assert_eq!((ahead.check, &*ahead.object.name), (CLOCK, "session-web-0.y1"));
        assert!(ahead.says.starts_with("its renewTime is 3m later than this machine's clock: the clock of web-0"));
        leases.truncate(1);
        leases[0]["spec"]["renewTime"] = "2026-11-22T06:00:04.000000Z".into();
        assert_eq!(bad(&sight(&leases)), []);
    }
}
