use serde_json::{Value, json};

use super::super::census::tests::{NOW, census, lock, session};
use super::*;

/// What is found of these besides that all is in order.
fn judged(leases: &[Value]) -> Vec<(Verdict, String, Option<String>)> {
    let found = judge(&Site::example(), &census(leases)).into_iter().filter(|one| one.verdict != Verdict::Ok);
    found.map(|one| (one.verdict, one.says, one.command)).collect()
}

fn one(lease: Value) -> (Verdict, String, String) {
    let mut found = judged(&[lease]);
    assert_eq!(found.len(), 1, "{found:?}");
    let (verdict, says, command) = found.remove(0);
    (verdict, says, command.unwrap_or_default())
}

fn changed(path: &str, value: Value) -> Value {
    let mut lease = lock("a", "web-0_x1.1", json!({}));
    *lease.pointer_mut(path).unwrap() = value;
    lease
}

#[test]
fn what_clients_write_is_in_order() {
    let annotations = json!({
        "leasehold.dev/format": "1", "join.leasehold.dev/web-1_x2.1": "6", "holds.leasehold.dev/web-1_x2.1": "web-1_x2.0",
        "payload.leasehold.dev/web-0_x1.1": "step 3", "request.leasehold.dev/web-0_x1.1": "30 web-2 why",
        "leasehold.dev/max-hold-seconds": "600",
    });
    let mut shared = lock(
        "s",
        "",
        json!({
            "leasehold.dev/permits": "3", "holder.leasehold.dev/web-0_x1.1": "5", "want.leasehold.dev/web-0_x1.1": "2",
        }),
    );
    shared["metadata"]["labels"]["leasehold.dev/kind"] = "semaphore".into();
    shared["spec"]["holderIdentity"] = "semaphore".into();
    let mut mapped = lock("order-payment-4711--u5aja2xsokmdklzq54c4iifvzd", "", json!({}));
    mapped["metadata"]["annotations"]["leasehold.dev/id"] = "order:payment:4711".into();
    let good = [lock("a", "web-0_x1.1", annotations), shared, mapped, session("session-web-0.x1", "web-0_x1", NOW)];
    assert_eq!(judged(&good), []);
}

#[test]
fn what_cannot_be_read_is_told() {
    let later = changed("/metadata/annotations", json!({"leasehold.dev/format": "2"}));
    let (verdict, says, _) = one(later);
    assert_eq!(verdict, Verdict::Failed);
    assert!(says.contains("it is of format 2"), "{says}");
    let mut no_session = session("heartbeat", "web-0_x1", NOW);
    no_session["metadata"]["namespace"] = "other".into();
    let (verdict, says, command) = one(no_session);
    assert_eq!((verdict, says.as_str()), (Verdict::Failed, "it cannot be read: its name is not a session's"));
    assert_eq!(command, "kubectl label lease heartbeat leasehold.dev/kind- -n other --context dev");
}

#[test]
fn keys_of_nobody_are_told_with_what_takes_them_off() {
    let (verdict, says, command) = one(changed("/metadata/annotations", json!({"join.leasehold.dev/gone_z3": "6"})));
    assert_eq!(verdict, Verdict::Warning);
    assert!(says.starts_with("annotation join.leasehold.dev/gone_z3 cannot be read"), "{says}");
    assert_eq!(command, "kubectl annotate lease a join.leasehold.dev/gone_z3- -n ops --context dev");
    for (key, value) in [("join.leasehold.dev/web-1_x2.1", "first"), ("want.leasehold.dev/web-0_x1.1", "all of it")] {
        assert_eq!(one(changed("/metadata/annotations", json!({ key: value }))).0, Verdict::Warning, "{key}");
    }
    for key in ["want", "holds", "payload", "request", "upgrade", "deadlock"] {
        let key = format!("{key}.leasehold.dev/gone_z3.1");
        let (verdict, says, _) = one(changed("/metadata/annotations", json!({ key: "1" })));
        assert_eq!(verdict, Verdict::Note);
        assert!(says.contains("is of nobody"), "{says}");
    }
}

/// Semaphore `s`, held by web-0, whose label is mangled.
fn mangled() -> Value {
    let mut lease = lock(
        "s",
        "",
        json!({
            "leasehold.dev/permits": "3", "holder.leasehold.dev/web-0_x1.1": "5", "want.leasehold.dev/web-0_x1.1": "2",
            "payload.leasehold.dev/gone_z3.1": "x", "join.leasehold.dev/gone_z3": "6",
        }),
    );
    lease["metadata"]["labels"]["leasehold.dev/kind"] = "semaphor".into();
    lease["spec"]["holderIdentity"] = "semaphore".into();
    lease
}

#[test]
fn a_kind_is_told_by_the_rest_and_nothing_else_is_mended_before() {
    let label = |lease: &Value| {
        let mut commands: Vec<_> = judged(std::slice::from_ref(lease)).into_iter().filter_map(|one| one.2).collect();
        assert!(commands.len() <= 1, "{commands:?}");
        commands.pop().and_then(|command| Some(command.split(' ').nth(4)?.to_owned()))
    };
    let mut lease = mangled();
    assert_eq!(label(&lease).as_deref(), Some("leasehold.dev/kind=semaphore"));
    lease["spec"]["holderIdentity"] = "rwlock".into();
    assert_eq!(label(&lease).as_deref(), Some("leasehold.dev/kind=rwlock"));
    lease["spec"]["holderIdentity"] = "".into();
    assert_eq!(label(&lease).as_deref(), Some("leasehold.dev/kind=semaphore"));
    lease["metadata"]["annotations"].as_object_mut().unwrap().remove("leasehold.dev/permits");
    assert_eq!(label(&lease), None);
    lease["metadata"]["annotations"] = json!({});
    assert_eq!(label(&lease).as_deref(), Some("leasehold.dev/kind=lock"));
}

#[test]
fn shares_are_never_taken_off_what_is_read_as_a_lock() {
    let mut lease = mangled();
    lease["metadata"]["labels"]["leasehold.dev/kind"] = "lock".into();
    let found = judged(&[lease]);
    assert!(found.iter().any(|one| one.1.contains("is of a semaphore or a read-write lock")), "{found:?}");
    let removed: Vec<_> = found.into_iter().filter_map(|one| one.2).filter(|one| one.contains("annotate")).collect();
    assert!(!removed.is_empty() && !removed.iter().any(|one| one.contains("web-0_x1.1")), "{removed:?}");
}

#[test]
fn what_a_lease_is_for_can_be_said_wrongly() {
    let says = |lease| one(lease).1;
    assert!(
        says(changed("/metadata/labels/leasehold.dev~1kind", "mutex".into())).contains("\"mutex\", which is no kind")
    );
    assert!(says(changed("/spec/holderIdentity", "semaphore".into())).contains("another program"));
    let mut semaphore = lock("s", "", json!({}));
    semaphore["metadata"]["labels"]["leasehold.dev/kind"] = "semaphore".into();
    assert!(says(semaphore.clone()).contains("how many permits"));
    semaphore["metadata"]["annotations"]["leasehold.dev/permits"] = "2".into();
    semaphore["spec"]["holderIdentity"] = "controller-7c9".into();
    assert!(says(semaphore).contains("\"controller-7c9\", which no client of a semaphore writes"));
    assert!(says(lock("a--u5aja2xsokmdklzq54c4iifvzd", "", json!({}))).contains("is not there"));
    assert!(says(lock("a", "", json!({"leasehold.dev/id": "b"}))).contains("another name"));
    assert!(says(lock("a", "", json!({"leasehold.dev/max-waiters": "many"}))).contains("counts as absent"));
    let mut lock = session("session-web-0.x1", "web-0_x1", NOW);
    lock["metadata"]["labels"]["leasehold.dev/kind"] = "lock".into();
    assert!(says(lock.clone()).contains("name of a session's Lease"));
    lock["metadata"]["labels"] = json!({});
    assert!(says(lock).contains("does not say so"));
}

#[test]
fn a_full_one_is_told_before_it_is_full() {
    let full = |bytes: usize| lock("a", "web-0_x1.1", json!({"payload.leasehold.dev/web-0_x1.1": "x".repeat(bytes)}));
    assert_eq!(judged(&[full(180 * 1024)]), []);
    assert_eq!(one(full(200 * 1024)).0, Verdict::Note);
    let (verdict, says, _) = one(full(240 * 1024));
    assert_eq!((verdict, says.contains("1 hold it and 0 wait, 240 KB of 240 KB")), (Verdict::Warning, true), "{says}");
}

#[test]
fn what_others_do_to_it_is_told() {
    let mut lease = lock("a", "", json!({}));
    lease["metadata"]["managedFields"] = json!([{"manager": "web", "operation": "Update"}]);
    assert_eq!(judged(std::slice::from_ref(&lease)), []);
    lease["metadata"]["managedFields"] = json!([{"manager": "argocd", "operation": "Apply"}]);
    assert!(one(lease).1.starts_with("argocd applies it"));
    let mut lease = lock("a", "", json!({}));
    lease["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u"}]);
    let (verdict, says, command) = one(lease);
    assert_eq!((verdict, says.contains("(Pod web-0)")), (Verdict::Warning, true));
    assert!(command.contains(r#"-p '{"metadata":{"ownerReferences":null}}'"#), "{command}");
}
