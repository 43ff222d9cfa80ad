use super::*;

fn of(variables: &[(&str, &str)]) -> Result<ClientBuilder, OptionsError> {
    let find = |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    ClientBuilder::of(find)
}

fn refused(variables: &[(&str, &str)]) -> String {
    of(variables).and_then(|options| options.resolve().map(drop)).unwrap_err().to_string()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_is_built_in() {
    for options in
        [of(&[]).unwrap(), Client::builder(), of(&[("LEASEHOLD_GRACE", ""), ("LEASEHOLD_RENEWAL", "")]).unwrap()]
    {
        let (session, defaults) = options.resolve().unwrap();
        assert_eq!((session.duration, session.grace), (seconds(30), Duration::ZERO));
        assert_eq!((session.request_timeout, session.contact_timeout), (seconds(5), seconds(10)));
        assert_eq!((defaults.lease_duration, defaults.renewal, defaults.wait_limit), (None, true, None));
        assert_eq!(defaults.key_prefix, "");
    }
}

#[test]
fn every_variable_says_what_its_option_is_and_code_comes_first() {
    let options = || {
        of(&[
            ("LEASEHOLD_NAMESPACE", "shop"),
            ("LEASEHOLD_HOST", "till-1"),
            ("LEASEHOLD_SESSION_DURATION", "12s"),
            ("LEASEHOLD_GRACE", "1500ms"),
            ("LEASEHOLD_REQUEST_TIMEOUT", "2s"),
            ("LEASEHOLD_CONTACT_TIMEOUT", "1m 30s"),
            ("LEASEHOLD_KEY_PREFIX", "shop/"),
            ("LEASEHOLD_LEASE_DURATION", " 1h30m "),
            ("LEASEHOLD_RENEWAL", "false"),
            ("LEASEHOLD_WAIT_LIMIT", "2 minutes"),
        ])
        .unwrap()
    };
    let by_env = options();
    assert_eq!(by_env.namespace.as_ref().unwrap().value, "shop");
    let (session, defaults) = by_env.resolve().unwrap();
    assert_eq!((session.host.as_str(), session.duration), ("till-1", seconds(12)));
    assert_eq!(session.grace, Duration::from_millis(1500));
    assert_eq!((session.request_timeout, session.contact_timeout), (seconds(2), seconds(90)));
    assert_eq!((defaults.key_prefix.as_str(), defaults.lease_duration), ("shop/", Some(seconds(5400))));
    assert_eq!((defaults.renewal, defaults.wait_limit), (false, Some(seconds(120))));

    let by_code = options()
        .namespace("cafe")
        .host("bar-1")
        .session_duration(seconds(9))
        .grace(seconds(1))
        .request_timeout(seconds(3))
        .contact_timeout(seconds(4))
        .key_prefix("cafe/")
        .lease_duration(seconds(7))
        .renewal(true)
        .wait_limit(seconds(8));
    assert_eq!(by_code.namespace.as_ref().unwrap().value, "cafe");
    let (session, defaults) = by_code.resolve().unwrap();
    assert_eq!((session.host.as_str(), session.duration, session.grace), ("bar-1", seconds(9), seconds(1)));
    assert_eq!((session.request_timeout, session.contact_timeout), (seconds(3), seconds(4)));
    assert_eq!((defaults.key_prefix.as_str(), defaults.lease_duration), ("cafe/", Some(seconds(7))));
    assert_eq!((defaults.renewal, defaults.wait_limit), (true, Some(seconds(8))));
}

#[test]
fn a_value_that_cannot_be_read_names_the_variable_and_an_example() {
    for name in [
        "LEASEHOLD_SESSION_DURATION",
        "LEASEHOLD_GRACE",
        "LEASEHOLD_REQUEST_TIMEOUT",
        "LEASEHOLD_CONTACT_TIMEOUT",
        "LEASEHOLD_LEASE_DURATION",
        "LEASEHOLD_WAIT_LIMIT",
    ] {
        for value in ["soon", "30", "-5s"] {
            let told = format!("{name}: {value:?} will not do: write 30s, 500ms or 1m 30s, for example");
            assert_eq!(refused(&[(name, value)]), told);
        }
    }
    let told = "LEASEHOLD_RENEWAL: \"maybe\" will not do: write true or false, for example";
    assert_eq!(refused(&[("LEASEHOLD_RENEWAL", "maybe")]), told);
    assert!(refused(&[("LEASEHOLD_NAMESPACE", "../x")]).starts_with("LEASEHOLD_NAMESPACE: \"../x\" will not do"));
    let told = refused(&[("LEASEHOLD_KEY_PREFIX", "a\tb")]);
    assert!(told.starts_with("LEASEHOLD_KEY_PREFIX: with it") && told.contains("control character"), "{told}");
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let latin = |name| (name == "LEASEHOLD_HOST").then(|| OsString::from_vec(vec![0xe9]));
        let error = ClientBuilder::of(latin).unwrap_err().to_string();
        assert_eq!(error, "LEASEHOLD_HOST: \u{fffd} is not UTF-8");
    }
}

#[test]
fn what_does_not_go_together_names_both() {
    let session = ("LEASEHOLD_SESSION_DURATION", "6s");
    for (variables, told) in [
        (
            vec![("LEASEHOLD_GRACE", "20s")],
            "LEASEHOLD_GRACE: 20s leaves no time to renew: less than two thirds of session_duration, 30s are possible",
        ),
        (
            vec![session, ("LEASEHOLD_GRACE", "4s")],
            "LEASEHOLD_GRACE: 4s leaves no time to renew: less than two thirds of LEASEHOLD_SESSION_DURATION, 6s are \
             possible",
        ),
        (
            vec![session, ("LEASEHOLD_REQUEST_TIMEOUT", "3s")],
            "LEASEHOLD_REQUEST_TIMEOUT: 3s leaves no time to try again before the session expires: at most a third of \
             LEASEHOLD_SESSION_DURATION, 6s is possible",
        ),
        (
            vec![("LEASEHOLD_CONTACT_TIMEOUT", "1s"), ("LEASEHOLD_REQUEST_TIMEOUT", "2s")],
            "LEASEHOLD_REQUEST_TIMEOUT: 2s is more than the time in which the first answer is to come: \
             LEASEHOLD_CONTACT_TIMEOUT, 1s",
        ),
        (
            vec![("LEASEHOLD_GRACE", "5s"), ("LEASEHOLD_LEASE_DURATION", "5s")],
            "LEASEHOLD_LEASE_DURATION: 5s will not do: it must be more than the client's LEASEHOLD_GRACE, 5s",
        ),
        (
            vec![("LEASEHOLD_SESSION_DURATION", "61s")],
            "LEASEHOLD_SESSION_DURATION: 61s will not do: whole seconds from 1 to 60 are possible",
        ),
        (vec![("LEASEHOLD_REQUEST_TIMEOUT", "0s")], "LEASEHOLD_REQUEST_TIMEOUT: it must be more than nothing"),
        (vec![("LEASEHOLD_CONTACT_TIMEOUT", "0s")], "LEASEHOLD_CONTACT_TIMEOUT: it must be more than nothing"),
        (
            vec![("LEASEHOLD_LEASE_DURATION", "1500ms")],
            "LEASEHOLD_LEASE_DURATION: 1.5s will not do: a whole number of seconds is needed, at least 1",
        ),
        (
            vec![("LEASEHOLD_WAIT_LIMIT", "0s")],
            "LEASEHOLD_WAIT_LIMIT: with no time at all nothing is ever acquired by waiting: try_acquire() does not wait",
        ),
    ] {
        assert_eq!(refused(&variables), told);
    }
    let error = of(&[session]).unwrap().grace(seconds(5)).resolve().unwrap_err();
    let told = "grace: 5s leaves no time to renew: less than two thirds of LEASEHOLD_SESSION_DURATION, 6s are possible";
    assert_eq!((error.option, error.to_string().as_str()), ("grace", told));
}
