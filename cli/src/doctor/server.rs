//! The API server: whether it answers, how fast, which one, as whom it knows the caller, and what time it has.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use leasehold::clock::now;

use super::fetch::{Look, Miss, ask};
use super::report::{Finding, Object, Verdict};
use super::site::Site;

pub(super) const CHECK: &str = "server";
pub(super) const CALLER: &str = "caller";
pub(super) const CLOCK: &str = "clock";

/// From this minor version on the policies of `config/fencing` and `config/strict` can be applied.
const POLICIES: u32 = 30;
/// From this minor version on Kubernetes promises that resourceVersions can be compared (KEP-5504).
const COMPARABLE: u32 = 35;
/// The minor version that every test of this release ran against.
const TESTED: u32 = 36;
/// An answer that takes longer leaves short sessions little time.
const SLOW: Duration = Duration::from_secs(1);
/// Clocks that are no further apart than this are told as right.
const NEAR: SignedDuration = SignedDuration::from_secs(2);
/// Clocks that are further apart than this break more than this program.
const FAR: SignedDuration = SignedDuration::from_secs(30);

/// What one request has shown.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Not everybody may ask for it.
    pub(super) version: Look<Info>,
    pub(super) took: Duration,
    /// Without it there was no such header.
    pub(super) clock: Option<Clock>,
}

/// The API server's clock as compared with this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// By how much it is ahead.
    pub(super) ahead: SignedDuration,
    /// By how much that may be wrong.
    pub(super) give_or_take: SignedDuration,
}

impl Clock {
    /// The header has whole seconds, and was written somewhere between these.
    fn between(sent: Timestamp, received: Timestamp, date: Timestamp) -> Self {
        let least = date.duration_since(received);
        let most = date.duration_since(sent) + SignedDuration::from_secs(1);
        Self { ahead: (least + most) / 2, give_or_take: (most - least) / 2 }
    }

    /// By how much the API server's clock differs at least.
    fn differs(self) -> SignedDuration {
        (self.ahead.abs() - self.give_or_take).max(SignedDuration::ZERO)
    }

    /// How late it is by the API server's clock.
    pub(super) fn at(self, local: Timestamp) -> Timestamp {
        local.checked_add(self.ahead).unwrap_or(local)
    }
}

/// Asks for its version, twice: the first request also opens the connection.
pub(super) async fn look(client: &Client) -> Look<Answer> {
    let sent = now().moment;
    let version = match ask(client.apiserver_version()).await {
        // It answers, and the rest is looked at all the same.
        Err(miss @ Miss::Forbidden(_)) => {
            return Ok(Answer { version: Err(miss), took: now().moment.since(sent), clock: None });
        }
        version => Ok(version?),
    };
    let request = http::Request::get("/version").body(Body::empty());
    let request = request.map_err(|error| Miss::Failed(error.to_string()))?;
    let sent = now();
    let answer = ask(client.send(request)).await?;
    let received = now();
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
    let clock = date.map(|date| Clock::between(sent.stamp, received.stamp, date));
    Ok(Answer { version, took: received.moment.since(sent.moment), clock })
}

/// As whom the API server knows the caller.
pub(super) async fn caller(client: &Client) -> Look<UserInfo> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let review = ask(api.create(&params, &question)).await?;
    review.status.and_then(|status| status.user_info).ok_or(Miss::Absent)
}

pub(super) fn judge(site: &Site, answer: &Answer) -> Vec<Finding> {
    let object = || Object::new("API server", &site.server);
    let Answer { version, took, clock } = answer;
    let mut found = Vec::new();
    let took_ms = took.as_millis().max(1);
    let answers = format!("it answers within {took_ms} ms");
    found.push(if *took > SLOW {
        Finding::new(CHECK, Verdict::Warning, object(), format!("{answers}, which is slow"))
            .fix("find out what keeps it busy or far away; sessions (30s by default) have to be renewed every third of their duration")
            .command(site.kubectl(None, &["get", "--raw", "/readyz?verbose"]))
    } else {
        Finding::ok(CHECK, object(), answers)
    });
    found.push(match version {
        Ok(version) => of_version(site, version),
        Err(miss) => miss.finding(CHECK, object()),
    });
    found.push(match clock {
        None if version.is_err() => {
            Finding::new(CLOCK, Verdict::Skipped, object(), "clocks were not compared: that takes /version")
                .fix("let somebody look who may, or compare them by hand, if anything uses max_clock_skew")
        }
        Some(clock) => of_clock(site, *clock),
        None => Finding::new(CLOCK, Verdict::Skipped, object(), "its answers have no Date: clocks cannot be compared")
            .fix("compare them by hand, if anything uses max_clock_skew"),
    });
    found
}

fn of_version(site: &Site, version: &Info) -> Finding {
    let object = Object::new("API server", &site.server);
    let told = &version.git_version;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    let (Ok(1), Ok(minor)) = (version.major.parse::<u32>(), digits.parse::<u32>()) else {
        let says = format!("it is of version {told}, of which nothing is known");
        return Finding::new(CHECK, Verdict::Note, object, says).fix("see what it is that answers there");
    };
    let says = |more: &str| format!("it is Kubernetes {told}{more}");
    let note = |more: String, fix: &str| Finding::new(CHECK, Verdict::Note, object.clone(), says(&more)).fix(fix);
    if minor < POLICIES {
        Finding::new(CHECK, Verdict::Warning, object.clone(), says(&format!(", older than 1.{POLICIES}")))
            .fix("upgrade it: locks work, but config/fencing and config/strict cannot be applied")
    } else if minor < COMPARABLE {
        let more = format!(": before 1.{COMPARABLE} it is not promised that versions can be compared, though they can");
        note(more, "upgrade it when you can")
    } else if minor > TESTED {
        let more = format!(", newer than 1.{TESTED}, with which this release was tested");
        note(more, "see whether there is a newer release of this program")
    } else {
        Finding::ok(CHECK, object.clone(), says(""))
    }
}

fn of_clock(site: &Site, clock: Clock) -> Finding {
    let object = Object::new("API server", &site.server);
    let (differs, ahead) = (clock.differs(), clock.ahead);
    let way = if ahead.is_negative() { "behind" } else { "ahead of" };
    if differs < NEAR {
        return Finding::ok(CLOCK, object, "its clock and this machine's agree to within two seconds");
    }
    let verdict = if differs < FAR { Verdict::Note } else { Verdict::Warning };
    let seconds = SignedDuration::from_secs(ahead.abs().as_secs());
    Finding::new(
        CLOCK,
        verdict,
        object,
        format!(
            "its clock is {seconds:#} {way} this machine's; that hurts only where max_clock_skew is used, and other clients \
             that read timestamps"
        ),
    )
    .fix("synchronise both clocks (NTP)")
}

pub(super) fn judge_caller(site: &Site, caller: &Look<UserInfo>) -> Finding {
    let object = |name: &str| Object::namespaced("caller", &site.namespace, name);
    match caller {
        Ok(user) => {
            let groups = user.groups.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
            let name = user.username.as_deref().unwrap_or_default();
            let says = if groups.is_empty() { "in no group".to_owned() } else { format!("in groups {groups}") };
            let pod = user.extra.as_ref().and_then(|extra| extra.get("authentication.kubernetes.io/pod-name")?.first());
            let pod = pod.map_or(String::new(), |pod| format!(", as Pod {pod}"));
            Finding::ok(CALLER, object(name), says + &pod)
        }
        Err(miss) => miss.finding(CALLER, object("")),
    }
}

/// What there is to say where nothing answers.
pub(super) fn unreachable(site: &Site, miss: &Miss) -> Finding {
    let object = Object::new("API server", &site.server);
    let (says, fix) = match miss {
        Miss::Failed(why) if !why.is_empty() => (
            format!("it cannot be reached: {why}"),
            "see to the address and the credentials of the kubeconfig, the network, and whether the API server runs",
        ),
        Miss::Forbidden(why) | Miss::Rejected(why) => (
            format!("it does not accept the credentials: {why}"),
            "look at the user of the kubeconfig's context: its token or certificate may have expired",
        ),
        Miss::Failed(_) | Miss::Absent => {
            ("what answers is no API server".to_owned(), "see to the address in the kubeconfig")
        }
    };
    Finding::new(CHECK, Verdict::Failed, object, says)
        .fix(fix)
        .command(site.kubectl(None, &["get", "--raw", "/readyz"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(minor: &str) -> Info {
        Info { major: "1".to_owned(), minor: minor.to_owned(), git_version: format!("v1.{minor}.0"), ..Info::default() }
    }

    #[test]
    fn versions() {
        let of = |minor| of_version(&Site::example(), &info(minor)).verdict;
        let all = ["29", "30", "34+", "35", "36", "37", "x"].map(of);
        let [warning, note, ok] = [Verdict::Warning, Verdict::Note, Verdict::Ok];
        assert_eq!(all, [warning, note, note, ok, ok, note, note]);
    }

    #[test]
    fn who_may_not_ask_for_the_version_is_told_so_and_nothing_has_failed() {
        let version = Err(Miss::Forbidden("User \"jane\" cannot get path \"/version\"".to_owned()));
        let found = judge(&Site::example(), &Answer { version, took: Duration::from_millis(3), clock: None });
        let verdicts: Vec<_> = found.iter().map(|one| (one.check, one.verdict)).collect();
        assert_eq!(verdicts, [(CHECK, Verdict::Ok), (CHECK, Verdict::Skipped), (CLOCK, Verdict::Skipped)]);
        assert!(found[2].says.contains("that takes /version"), "{found:?}");
    }

    #[tokio::test]
    async fn a_version_that_is_forbidden_is_no_end() {
        let service = tower::service_fn(|_: http::Request<Body>| async {
            let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": "forbidden"});
            http::Response::builder().status(403).body(Body::from(status.to_string().into_bytes()))
        });
        let answer = look(&Client::new(service, "ops")).await.unwrap();
        assert!(matches!(answer.version, Err(Miss::Forbidden(_))) && answer.clock.is_none(), "{answer:?}");
    }

    #[test]
    fn a_clock_is_as_exact_as_its_header() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let clock =
            Clock::between(at("2026-11-22T06:00:00.2Z"), at("2026-11-22T06:00:00.4Z"), at("2026-11-22T06:00:00Z"));
        assert_eq!(clock.give_or_take, SignedDuration::from_millis(600));
        assert_eq!((clock.ahead, clock.differs()), (SignedDuration::from_millis(200), SignedDuration::ZERO));
        let clock =
            Clock::between(at("2026-11-22T06:00:00.2Z"), at("2026-11-22T06:00:00.4Z"), at("2026-11-22T06:01:00Z"));
        assert_eq!(clock.differs(), SignedDuration::from_millis(59_600));
        assert_eq!(clock.at(at("2026-11-22T06:00:00.3Z")), at("2026-11-22T06:01:00.5Z"));
    }

    #[test]
    fn a_clock_that_is_off_says_whom_it_hurts() {
        let of = |seconds| {
            let give_or_take = SignedDuration::from_millis(500);
            of_clock(&Site::example(), Clock { ahead: SignedDuration::from_secs(seconds), give_or_take })
        };
        let [warning, note, ok] = [Verdict::Warning, Verdict::Note, Verdict::Ok];
        assert_eq!([1, -2, 3, -29, 31].map(|seconds| of(seconds).verdict), [ok, ok, note, note, warning]);
        let behind = of(-90);
        assert!(behind.says.starts_with("its clock is 1m 30s behind this machine's"), "{}", behind.says);
        assert!(behind.says.contains("only where max_clock_skew"), "{}", behind.says);
    }
}
