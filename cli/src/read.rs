//! `list`, `status` and `name`: what stands on the Leases, read without a session.

use std::io::{self, Write as _};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, ObjectList};
use kube::{Api, Client, Config};
use leasehold::protocol::Record;
use leasehold::protocol::name::lease_name;
use leasehold::protocol::record::{KIND, KIND_LOCK};
use serde::Serialize;

use crate::args::{Format, ListArgs, ListFormat, NameArgs, StatusArgs};
use crate::exit::{self, Failure, chain};
use crate::forbidden;
use crate::view::{self, LockView};

/// How long to wait for an answer.
const LIMIT: Duration = Duration::from_secs(15);
/// How many Leases to ask for at a time.
const PAGE: u32 = 500;

/// The Leases of a cluster.
#[derive(Clone)]
pub(crate) struct Leases {
    client: Client,
    namespace: String,
}

impl Leases {
    pub(crate) fn new(config: Config) -> Result<Self, Failure> {
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| Failure::usage(chain(&error)))?;
        Ok(Self { client, namespace })
    }

    /// One lock. It exists by being named: one without a Lease is free.
    pub(crate) async fn get(&self, name: &str) -> Result<LockView, Failure> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease_name = lease_name(name).map_err(|error| Failure::usage(chain(&error)))?;
        match within_limit(leases.get_opt(&lease_name), "get").await? {
            Some(lease) => {
                let record = Record::parse(lease).map_err(|error| Failure::internal(&error))?;
                match record.is_of_another(name) {
                    Some(why) => Err(Failure::usage(why)),
                    None => Ok(LockView { name: name.to_owned(), ..LockView::of(record) }),
                }
            }
            None => Ok(LockView::absent(name, &lease_name, &self.namespace)),
        }
    }

    /// The locks of the namespace, or of all.
    pub(crate) async fn list(&self, all_namespaces: bool) -> Result<Vec<LockView>, Failure> {
        let leases: Api<Lease> = if all_namespaces {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        };
        let mut params = ListParams::default().labels(&format!("{KIND}={KIND_LOCK}")).limit(PAGE);
        let mut locks = Vec::new();
        loop {
            let page: ObjectList<Lease> = within_limit(leases.list(&params), "list").await?;
            for lease in page.items {
                locks.push(LockView::of(Record::parse(lease).map_err(|error| Failure::internal(&error))?));
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(locks),
            }
        }
    }
}

pub(crate) async fn within_limit<T>(request: impl Future<Output = kube::Result<T>>, verb: &str) -> Result<T, Failure> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| refused(&error, verb)),
        Err(_) => Err(Failure::new(exit::UNREACHABLE, format!("no answer from the API server within {LIMIT:?}"))),
    }
}

fn refused(error: &kube::Error, verb: &str) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => Failure::new(
                exit::FORBIDDEN,
                format!("the API server does not accept the credentials: {}", status.message),
            ),
            403 => Failure::new(exit::FORBIDDEN, forbidden::explain(&status.message, &[verb])),
            408 | 429 | 500.. => {
                Failure::new(exit::UNREACHABLE, format!("the API server cannot answer: {}", status.message))
            }
            _ => Failure::new(exit::INTERNAL, status.message.clone()),
        },
        error => Failure::new(exit::UNREACHABLE, format!("the API server cannot be reached: {}", chain(error))),
    }
}

pub(crate) async fn list(leases: &Leases, args: &ListArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct List {
        items: Vec<LockView>,
    }
    let items = leases.list(args.all_namespaces).await?;
    match args.output {
        Some(ListFormat::Json) => print(&json(&List { items })?),
        Some(ListFormat::Yaml) => print(&yaml(&List { items })?),
        Some(ListFormat::Name) => {
            let names = items.iter().map(|lock| lock.lease_name.as_str());
            print(&names.flat_map(|name| ["lease.coordination.k8s.io/", name, "\n"]).collect::<String>())
        }
        None if items.is_empty() => {
            let place = if args.all_namespaces { String::new() } else { format!(" in namespace {}", leases.namespace) };
            exit::say(format_args!("no locks{place}"));
            Ok(())
        }
        None => print(&view::table(&items, args.all_namespaces, leasehold::clock::now().stamp)),
    }
}

pub(crate) async fn status(leases: &Leases, args: &StatusArgs) -> Result<(), Failure> {
    let lock = leases.get(&args.name).await?;
    match args.output {
        Some(Format::Json) => print(&json(&lock)?),
        Some(Format::Yaml) => print(&yaml(&lock)?),
        None => print(&view::describe(&lock, leasehold::clock::now().stamp)),
    }
}

pub(crate) fn name(args: &NameArgs) -> Result<(), Failure> {
    let name = lease_name(&args.name).map_err(|error| Failure::usage(chain(&error)))?;
    print(&format!("{name}\n"))
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| Failure::internal(&error))
}

fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_yaml_ng::to_string(value).map_err(|error| Failure::internal(&error))
}

/// Writes to standard output. Whoever closes it has read enough.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::internal(&error)),
        _ => Ok(()),
    }
}
