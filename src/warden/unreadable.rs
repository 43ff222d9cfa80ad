//! Leases of a later format, that another version of this writes: they are left alone, and nobody is asked about them for
//! ever.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::{Moment, Now};
use serde_json::json;

use super::{Place, Warden, What};
use crate::leases::Failure;

fn at(seconds: u64) -> Now {
    Now { moment: Moment::from_start(Duration::from_secs(seconds)), stamp: Timestamp::UNIX_EPOCH }
}

/// Of this format, at this version.
fn written(name: &str, kind: &str, holder: &str, format: &str, version: u32) -> Lease {
    let lease = json!({
        "metadata": { "namespace": "ns", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "labels": { "leasehold.dev/kind": kind, "holder.leasehold.dev/pod_x": "4" }, "annotations": { "leasehold.dev/format": format } },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 10 },
    });
    serde_json::from_value(lease).unwrap()
}

/// What is asked for at this time, where all that stands there is this, and no other write succeeds than its own.
fn asked(warden: &mut Warden, now: Now, there: &Lease) -> usize {
    for sent in 0..20 {
        let Some(task) = warden.poll(now) else { return sent };
        let read = matches!(task.what, What::Read);
        let answer = match Some(&task.place.name) == there.metadata.name.as_ref() {
            true if read => Ok(Some(there.clone())),
            false if read => Err(Failure::Absent),
            _ => Err(Failure::Refused),
        };
        warden.answer(&task, answer, now.moment);
    }
    panic!("it asks again and again");
}

#[test]
fn a_lock_of_a_later_format_is_left_alone_until_it_can_be_read() {
    let mut warden = Warden::new("test");
    let place = Place::new("ns", "a");
    let (old, new) = (written("a", "lock", "pod_x.1", "1", 5), written("a", "lock", "pod_x.1", "2", 6));
    warden.saw(old, at(0).moment);
    assert_eq!(asked(&mut warden, at(0), &new), 1, "whether its session is there");
    // That is away for as long as it takes, and the eviction is refused: so the lock is read.
    assert_eq!(asked(&mut warden, at(60), &new), 2, "an eviction, a read");
    assert!(warden.record(&place).is_none() && warden.census().held == 0);
    warden.saw(written("a", "lock", "", "1", 7), at(60).moment);
    assert!(warden.record(&place).is_some());
    // Nor is it read for ever that a watch has shown so.
    warden.saw(written("a", "lock", "", "2", 8), at(60).moment);
    assert_eq!((asked(&mut warden, at(90), &new), warden.census().free), (0, 0));
}

#[test]
fn a_session_of_a_later_format_is_asked_for_once_a_minute_and_lives() {
    let name = "session-pod.x";
    for shown in [false, true] {
        let mut warden = Warden::new("test");
        let new = written(name, "session", "pod_x", "2", 6);
        if shown {
            warden.saw(written(name, "session", "pod_x", "1", 4), at(0).moment);
            warden.saw(new.clone(), at(0).moment);
        }
        warden.saw(written("a", "lock", "pod_x.1", "1", 5), at(0).moment);
        let sent: Vec<usize> = (0..180).map(|second| asked(&mut warden, at(second), &new)).collect();
        let all: usize = sent.iter().sum();
        assert!((3..6).contains(&all), "{sent:?}");
        assert_eq!(warden.census().held, 1);
        // It is shown as one that can be read, and goes on from there.
        let again = written(name, "session", "pod_x", "1", 7);
        warden.saw(again.clone(), at(185).moment);
        assert!(asked(&mut warden, at(194), &again) <= 1, "at most a look at it");
        let task = warden.poll(at(195)).expect("its time has passed");
        assert!(matches!(task.what, What::End(_)), "{task:?}");
    }
}
