//! On sessions.

use leasehold::protocol::SessionId;
use serde_json::{Value, json};

use super::{Attack, Form, VICTIM, annotate, lease, owned, spec, unlabel, with};

pub(super) fn sessions(me: &str) -> Vec<(SessionId, Attack)> {
    const NAME: &str = "in the name of";
    let session = |holder: &str| {
        json!({ "metadata": { "labels": { "leasehold.dev/kind": "session" }, "annotations": { "leasehold.dev/format": "1" } },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 30 } })
    };
    let annotated = |lease, key: &str| with(lease, key, "another");
    let change = Form::Change;
    let attack = |of: &str, name, before, form, message| {
        (of.parse::<SessionId>().expect("a session"), Attack { name, before, form, message })
    };
    let long = |holder: &str| {
        let mut long = session(holder);
        long["spec"]["leaseDurationSeconds"] = json!(3600);
        long
    };
    vec![
        attack(VICTIM, "end another's session", session(VICTIM), change(vec![spec("holderIdentity", "")]), NAME),
        attack(
            VICTIM,
            "renew another's session",
            session(VICTIM),
            change(vec![spec("renewTime", "2030-01-01T00:00:00.000000Z")]),
            NAME,
        ),
        attack(VICTIM, "delete another's session", session(VICTIM), Form::Delete, NAME),
        attack(VICTIM, "sweep another's tombstone", session(""), Form::Delete, NAME),
        attack(VICTIM, "open another's session", Value::Null, Form::Create(session(VICTIM)), NAME),
        attack(VICTIM, "open a session beside its name", Value::Null, Form::Create(session(me)), NAME),
        attack(
            me,
            "be somebody else in one's own session",
            Value::Null,
            Form::Create(session(VICTIM)),
            "names the session as its holder",
        ),
        attack(me, "come back", session(""), change(vec![spec("holderIdentity", me)]), "never comes back"),
        attack(me, "last for long", Value::Null, Form::Create(long(me)), "1 to 60 s"),
        attack(me, "last for ever", session(me), change(vec![spec("leaseDurationSeconds", 3600)]), "1 to 60 s"),
        attack(
            me,
            "be in another Pod",
            Value::Null,
            Form::Create(annotated(session(me), "leasehold.dev/pod-uid")),
            "the Pod that the writer's token is bound to",
        ),
        attack(
            me,
            "move to another Pod",
            session(me),
            change(vec![annotate("leasehold.dev/pod", "another")]),
            "the Pod that the writer's token is bound to",
        ),
        attack(me, "hide a session", session(me), change(vec![unlabel("leasehold.dev/kind")]), "is a session's"),
        attack(
            me,
            "call a lock a session",
            Value::Null,
            Form::Create(lease("lock", &[("leasehold.dev/ephemeral", "true")], &json!({ "holderIdentity": me }))),
            "strict mode:",
        ),
        attack(me, "give one's session another owner", session(me), change(vec![owned()]), "owners and finalizers"),
    ]
}
