//! What is left of processes and locks that are over.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use leasehold::protocol::Kind;

use super::census::{Life, Place, Sight, place_of, told};
use super::forms::{is_labelled, whole};
use super::report::{Finding, Object, Verdict};
use super::site::Site;
use crate::view::name_to_type;

pub(super) const CHECK: &str = "leftovers";

/// The operator removes tombstones after two minutes from when it has seen them.
const OLD: SignedDuration = SignedDuration::from_mins(5);
/// Looks twice, as far apart as any session lasts.
const WATCH: [&str; 4] = ["leasehold", "doctor", "--watch-for", "61s"];
/// So many are named in a command.
const NAMED: usize = 20;

pub(super) fn judge(site: &Site, sight: &Sight) -> Vec<Finding> {
    let mut found = sessions(site, sight);
    found.extend(free(site, sight));
    if found.is_empty() {
        found.push(Finding::ok(CHECK, whole(site), "nothing is left of what is over"));
    }
    found
}

/// Sessions that nothing names: tombstones that have stood for long, and such as nobody renews.
fn sessions(site: &Site, sight: &Sight) -> Vec<Finding> {
    let in_use = sight.census.named();
    let mut tombstones: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut old: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut dead: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut silent: BTreeMap<&str, Vec<(&str, SignedDuration)>> = BTreeMap::new();
    let unnamed = sight.census.sessions.iter().filter(|(place, _): &(&Place, _)| !in_use.contains(*place));
    for ((namespace, name), session) in unnamed {
        match sight.of_record(session) {
            Life::Ended if sight.stood(session) => tombstones.entry(namespace).or_default().push(name),
            Life::Ended => {
                let spec = session.lease.spec.as_ref();
                let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
                // One that was never renewed was not written by a client, and nobody has use for it.
                if renewed.is_none_or(|renewed| sight.now().duration_since(renewed) > OLD) {
                    old.entry(namespace).or_default().push(name);
                }
            }
            Life::Dead => dead.entry(namespace).or_default().push(name),
            Life::Silent(age) => silent.entry(namespace).or_default().push((name, age)),
            Life::Alive | Life::Absent | Life::Gone | Life::Unknown => {}
        }
    }
    let mut found = Vec::new();
    for (namespace, names) in tombstones {
        let says = format!(
            "{}, of sessions that have ended, which stood there while this watched for longer than they lived, and nothing names them: {}",
            tombstones_of(names.len()),
            some(&names)
        );
        found.push(remove(
            site,
            namespace,
            &names,
            says,
            "they harm nobody, and the operator sweeps them after two minutes; or",
        ));
    }
    for (namespace, names) in old {
        let says = format!(
            "{}, of sessions that have ended, last renewed more than five minutes ago by their own timestamps, and nothing names them: {}",
            tombstones_of(names.len()),
            some(&names)
        );
        let object = Object::namespaced("sessions", namespace, "");
        found.push(
            Finding::new(CHECK, Verdict::Note, object, says)
                .fix("they harm nobody, and the operator sweeps them after two minutes; watch them before you remove any")
                .command(site.kubectl(Some(namespace), &WATCH)),
        );
    }
    for (namespace, names) in dead {
        let says = format!(
            "{} named by nothing, and not renewed while this watched for longer than they live: {}",
            count(names.len()),
            some(&names)
        );
        found.push(remove(
            site,
            namespace,
            &names,
            says,
            "their processes did not shut down; the operator removes them; or",
        ));
    }
    for (namespace, all) in silent {
        let longest = all.iter().map(|(_, age)| *age).max().unwrap_or_default();
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let says = format!(
            "{} named by nothing, and not renewed for up to {} by their own timestamps: {}",
            count(names.len()),
            told(longest),
            some(&names)
        );
        let object = Object::namespaced("sessions", namespace, "");
        found.push(
            Finding::new(CHECK, Verdict::Note, object, says)
                .fix("most likely their processes did not shut down; watch them before you remove any")
                .command(site.kubectl(Some(namespace), &WATCH)),
        );
    }
    found
}

fn tombstones_of(count: usize) -> String {
    if count == 1 { "1 tombstone".to_owned() } else { format!("{count} tombstones") }
}

fn count(count: usize) -> String {
    if count == 1 { "1 session is".to_owned() } else { format!("{count} sessions are") }
}

fn remove(site: &Site, namespace: &str, names: &[&str], says: String, why: &str) -> Finding {
    let mut words = vec!["delete", "lease"];
    words.extend(names.iter().take(NAMED));
    Finding::new(CHECK, Verdict::Note, Object::namespaced("sessions", namespace, ""), says)
        .fix(format!("{why} remove them by hand"))
        .command(site.kubectl(Some(namespace), &words))
        .for_the_operator(site)
}

/// The first of them, and how many more there are.
fn some(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names[..names.len() - more].join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// Leases that were made on the spot, and that nobody uses any more.
fn free(site: &Site, sight: &Sight) -> Vec<Finding> {
    let free = sight.census.locks.iter().filter(|lock| lock.ephemeral && !lock.is_held() && lock.waiters.is_empty());
    free.map(|record| {
        let (namespace, lease) = place_of(&record.lease);
        let take = |name| {
            let mut words = vec!["leasehold", "run", name, "--no-wait"];
            words.extend(match record.kind {
                Kind::Lock => None,
                Kind::Semaphore => Some("--semaphore"),
                Kind::ReadWriteLock => Some("--write"),
            });
            words.extend(["--", "true"]);
            site.kubectl(Some(&namespace), &words)
        };
        let says = "it was made on the spot, nobody holds it or waits for it, and it is still there";
        Finding::new(CHECK, Verdict::Note, Object::lease(&namespace, &lease), says)
            .fix("it harms nobody, and the operator removes it after 5 s; or take it once, which removes it safely")
            .command(name_to_type(record).map(take))
            .typed_only_if(is_labelled(record))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::census::tests::{NOW, lock, session, sight, watched};
    use super::*;

    const LONG_AGO: &str = "2026-11-22T05:50:00.000000Z";

    fn bad(sight: &Sight) -> Vec<Finding> {
        judge(&Site::example(), sight).into_iter().filter(|one| one.verdict != Verdict::Ok).collect()
    }

    #[test]
    fn a_tombstone_is_told_when_it_is_old_and_nothing_names_it() {
        let old = session("session-web-0.x1", "", LONG_AGO);
        let [seen] = &bad(&sight(std::slice::from_ref(&old)))[..] else { panic!() };
        assert!(seen.says.contains("five minutes ago by their own timestamps"), "{}", seen.says);
        for early in [sight(std::slice::from_ref(&old)), watched(std::slice::from_ref(&old), 29)] {
            let command = bad(&early)[0].command.clone().unwrap();
            assert_eq!(command, "kubectl leasehold doctor --watch-for 61s -n ops --context dev");
        }
        let [one] = &bad(&watched(std::slice::from_ref(&old), 30))[..] else { panic!() };
        assert!(one.says.starts_with("1 tombstone, of sessions that have ended"), "{}", one.says);
        assert_eq!(one.command.as_deref().unwrap(), "kubectl delete lease session-web-0.x1 -n ops --context dev");
        assert_eq!(bad(&sight(&[session("session-web-0.x1", "", NOW)])), []);
        assert_eq!(bad(&sight(&[old, lock("a", "web-0_x1.1", json!({}))])), []);
    }

    #[test]
    fn in_strict_mode_the_operator_removes_what_is_left() {
        let site = Site { strict: ["ops".to_owned()].into(), ..Site::example() };
        let found = judge(&site, &watched(&[session("session-web-0.x1", "", LONG_AGO)], 30));
        assert_eq!(found[0].command, None);
        assert!(found[0].fix.as_deref().unwrap().starts_with("in strict mode only the operator"), "{found:?}");
    }

    #[test]
    fn a_session_that_nobody_renews_is_removed_only_once_it_was_watched() {
        let leases = [session("session-web-0.x1", "web-0_x1", LONG_AGO), session("session-web-1.x2", "web-1_x2", NOW)];
        let [silent] = &bad(&sight(&leases))[..] else { panic!() };
        assert!(silent.command.as_deref().unwrap().contains("--watch-for"), "{silent:?}");
        assert!(
            silent.says.starts_with("1 session is named by nothing, and not renewed for up to 10m"),
            "{}",
            silent.says
        );
        let [dead] = &bad(&watched(&leases, 30))[..] else { panic!() };
        let command = dead.command.as_deref().unwrap();
        assert_eq!(command, "kubectl delete lease session-web-0.x1 session-web-1.x2 -n ops --context dev");
    }

    #[test]
    fn what_was_made_on_the_spot_goes_by_being_taken() {
        let mut lease = lock(
            &leasehold::protocol::name::lease_name("a b").unwrap(),
            "",
            json!({"leasehold.dev/ephemeral": "true", "leasehold.dev/id": "a b"}),
        );
        let [one] = &bad(&sight(std::slice::from_ref(&lease)))[..] else { panic!() };
        assert_eq!(
            one.command.as_deref().unwrap(),
            "kubectl leasehold run 'a b' --no-wait -n ops --context dev -- true"
        );
        let mut of_another = lease.clone();
        of_another["metadata"]["annotations"]["leasehold.dev/id"] = "live".into();
        assert_eq!(bad(&sight(&[of_another]))[0].command, None);
        let mut of_no_kind = lease.clone();
        of_no_kind["metadata"]["labels"]["leasehold.dev/kind"] = "semaphor".into();
        assert_eq!(bad(&sight(&[of_no_kind]))[0].command, None);
        lease["metadata"]["annotations"]["join.leasehold.dev/web-1_x2.1"] = "5".into();
        assert_eq!(bad(&sight(&[lease])), []);
    }
}
