//! Who takes part, and with what options.

/// One way to lock, with one set of options.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a table")]
pub(crate) struct Contestant {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    /// What it was told, for people.
    pub(crate) options: &'static str,
    pub(crate) family: Family,
    /// Written in Go.
    pub(crate) go: bool,
    arguments: &'static [&'static str],
    /// What is said instead where everybody's lease lasts equally long.
    equal_arguments: &'static [&'static str],
    /// How long a lease lasts otherwise, in seconds.
    lease: f64,
    /// For how long a waiter is left alone at least before somebody hands off to it, in milliseconds. It is as long
    /// again at most: so whoever looks now and then is met at any moment between two looks.
    pub(crate) settle: u64,
    /// Whoever waits looks so seldom that hand-offs are measured beside others that have nothing to do either.
    pub(crate) slow: bool,
    /// Those who wait have turns in order, so that it can be waited for that all have had some.
    pub(crate) queues: bool,
    /// For how many seconds at least it is watched while many contend: it has few turns.
    pub(crate) patience: u64,
    /// Needs a Lease that is there already.
    pub(crate) needs_lease: bool,
    /// It has other options only for those who wait, or for its own processes: who holds does as with defaults.
    pub(crate) holds_alike: bool,
    /// Measured only where nobody else wants the lock.
    pub(crate) alone_only: bool,
}

/// How long leases last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// As a contestant has them.
    Own,
    /// As long as everybody's.
    Equally,
}

/// What keeps the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Floor,
    Kubernetes,
    Etcd,
    Redis,
}

/// How long everybody's lease lasts where that is compared, in seconds: as long as client-go's default.
pub(crate) const EQUAL_LEASE: f64 = 15.0;
/// What is measured with leases that last equally long is called so at its end.
pub(crate) const EQUAL: &str = "-equal";
pub(crate) const LEASEHOLD: &str = "leasehold";
pub(crate) const LINGERING: &str = "leasehold-linger";
pub(crate) const FLOOR: &str = "floor";

const PLAIN: Contestant = Contestant {
    id: "",
    name: "",
    options: "",
    family: Family::Kubernetes,
    go: false,
    arguments: &[],
    equal_arguments: &[],
    lease: EQUAL_LEASE,
    settle: 100,
    slow: false,
    queues: false,
    patience: 0,
    needs_lease: false,
    holds_alike: false,
    alone_only: false,
};

pub(crate) const FLOOR_PUT: Contestant = Contestant {
    id: FLOOR,
    name: "floor",
    options: "two bare PUTs",
    family: Family::Floor,
    arguments: &["--peer", "floor-put"],
    needs_lease: true,
    ..PLAIN
};

pub(crate) const FLOOR_EVENT: Contestant = Contestant {
    id: FLOOR,
    name: "floor",
    options: "a PUT, and its watch event in another process",
    arguments: &["--peer", "floor-event"],
    ..FLOOR_PUT
};

pub(crate) const ALL: &[Contestant] = &[
    Contestant {
        id: LEASEHOLD,
        name: "Leasehold",
        options: "defaults: session 30 s; the Lease stays when it is free, as the operator makes them",
        arguments: &["--peer", "leasehold"],
        equal_arguments: &["--peer", "leasehold", "--lease", "15"],
        lease: 30.0,
        queues: true,
        needs_lease: true,
        ..PLAIN
    },
    Contestant {
        id: LINGERING,
        name: "Leasehold, lingering",
        options: "linger 2 s: a lock is kept that long after its release, if no other process wants it",
        arguments: &["--peer", "leasehold", "--linger", "2000"],
        equal_arguments: &["--peer", "leasehold", "--linger", "2000", "--lease", "15"],
        lease: 30.0,
        queues: true,
        needs_lease: true,
        holds_alike: true,
        ..PLAIN
    },
    Contestant {
        id: "leasehold-on-the-spot",
        name: "Leasehold, Lease made on the spot",
        options: "defaults; the Lease is made to acquire and removed to release",
        arguments: &["--peer", "leasehold"],
        alone_only: true,
        ..PLAIN
    },
    Contestant {
        id: "client-go",
        name: "client-go",
        options: "defaults: 15 s/10 s/2 s, 5 requests a second; ReleaseOnCancel",
        go: true,
        arguments: &["--peer", "client-go"],
        equal_arguments: &["--peer", "client-go"],
        settle: 2400,
        slow: true,
        ..PLAIN
    },
    Contestant {
        id: "client-go-best",
        name: "client-go, RetryPeriod 100 ms",
        options: "15 s/10 s/100 ms, no limit of requests; ReleaseOnCancel",
        go: true,
        arguments: &["--peer", "client-go", "--retry", "100ms", "--qps", "-1"],
        equal_arguments: &["--peer", "client-go", "--retry", "100ms", "--qps", "-1"],
        settle: 220,
        ..PLAIN
    },
    Contestant {
        id: "kube-leader-election",
        name: "kube-leader-election",
        options: "as documented: 15 s, tried and renewed every 5 s",
        arguments: &["--peer", "kube-leader-election"],
        equal_arguments: &["--peer", "kube-leader-election"],
        settle: 5000,
        slow: true,
        patience: 6,
        ..PLAIN
    },
    Contestant {
        id: "kube-leader-election-best",
        name: "kube-leader-election, every 100 ms",
        options: "15 s, tried every 100 ms, renewed every 5 s",
        arguments: &["--peer", "kube-leader-election", "--retry", "100"],
        equal_arguments: &["--peer", "kube-leader-election", "--retry", "100"],
        patience: 6,
        holds_alike: true,
        ..PLAIN
    },
    Contestant {
        id: "kube-lease-manager",
        name: "kube-lease-manager",
        options: "defaults: 30 s, grace 5 s; a waiter sleeps until the lease that it saw has expired",
        arguments: &["--peer", "kube-lease-manager"],
        equal_arguments: &["--peer", "kube-lease-manager", "--lease", "15"],
        lease: 30.0,
        slow: true,
        ..PLAIN
    },
    Contestant {
        id: "kube-lease-manager-best",
        name: "kube-lease-manager, shortest lease",
        options: "2 s, grace 1 s: the shortest that it takes; where leases last equally long, 15 s and the same grace",
        arguments: &["--peer", "kube-lease-manager", "--lease", "2", "--grace", "1"],
        equal_arguments: &["--peer", "kube-lease-manager", "--lease", "15", "--grace", "1"],
        lease: 2.0,
        settle: 1000,
        slow: true,
        ..PLAIN
    },
    Contestant {
        id: "kubert",
        name: "kubert",
        options: "defaults: 30 s, grace 1 s, by spawn(); a waiter sleeps until the claim that it saw has expired",
        arguments: &["--peer", "kubert"],
        equal_arguments: &["--peer", "kubert", "--lease", "15"],
        lease: 30.0,
        slow: true,
        needs_lease: true,
        ..PLAIN
    },
    Contestant {
        id: "kubert-best",
        name: "kubert, every 100 ms",
        options: "30 s, grace 1 s, by sync() and ensure_claimed() every 100 ms",
        arguments: &["--peer", "kubert", "--retry", "100"],
        equal_arguments: &["--peer", "kubert", "--retry", "100", "--lease", "15"],
        lease: 30.0,
        needs_lease: true,
        holds_alike: true,
        ..PLAIN
    },
    Contestant {
        id: "etcd",
        name: "etcd mutex",
        options: "defaults: session 60 s; the API server's own etcd, by its socket, without TLS",
        family: Family::Etcd,
        go: true,
        arguments: &["--peer", "etcd", "--lease", "60s"],
        equal_arguments: &["--peer", "etcd", "--lease", "15s"],
        lease: 60.0,
        queues: true,
        ..PLAIN
    },
    Contestant {
        id: "redis",
        name: "Redis, SET NX",
        options: "15 s, tried every 50 to 150 ms, extended every 5 s; one Redis that stores nothing, by its socket",
        family: Family::Redis,
        arguments: &["--peer", "redis"],
        equal_arguments: &["--peer", "redis"],
        ..PLAIN
    },
    Contestant {
        id: "redis-best",
        name: "Redis, SET NX, every 10 ms",
        options: "15 s, tried every 5 to 15 ms, extended every 5 s",
        family: Family::Redis,
        arguments: &["--peer", "redis", "--retry", "10"],
        equal_arguments: &["--peer", "redis", "--retry", "10"],
        settle: 50,
        holds_alike: true,
        ..PLAIN
    },
];

impl Contestant {
    /// What its program is told about options.
    pub(crate) fn arguments(&self, lease: Lasts) -> &'static [&'static str] {
        match lease {
            Lasts::Own => self.arguments,
            Lasts::Equally => self.equal_arguments,
        }
    }

    /// How long its leases last, in seconds.
    pub(crate) fn lease(&self, lease: Lasts) -> f64 {
        match lease {
            Lasts::Own => self.lease,
            Lasts::Equally => EQUAL_LEASE,
        }
    }

    /// It is the same for it whether leases last as it has them or as long as everybody's.
    pub(crate) fn is_equal_anyway(&self) -> bool {
        self.arguments == self.equal_arguments
    }
}
