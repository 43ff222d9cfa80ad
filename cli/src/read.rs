//! `list`, `status` and `name`: what stands on the Leases, read without a session.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, ObjectList, WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use leasehold::clock::now;
use leasehold::protocol::Record;
use leasehold::protocol::name::lease_name;
use leasehold::protocol::record::{KIND, KIND_SESSION};
use serde::Serialize;

use crate::args::{ListArgs, ListFormat, NameArgs, StatusArgs};
use crate::config;
use crate::exit::{self, Failure, chain};
use crate::follow::{Follower, LONGEST_PAUSE, WATCH_SECONDS};
use crate::forbidden;
use crate::output::{json, print, print_on, yaml};
use crate::view::{self, Columns, LockView, State, Style};

/// How long to wait for an answer.
const LIMIT: Duration = Duration::from_secs(15);
/// How many Leases to ask for at a time.
const PAGE: u32 = 500;

/// What becomes of some Leases.
pub(crate) type LeaseEvents = BoxStream<'static, kube::Result<WatchEvent<Lease>>>;

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

    /// `in namespace ops`, with the context if there is one.
    pub(crate) fn place(&self) -> String {
        format!("in namespace {}{}", self.namespace, config::of_context())
    }

    pub(crate) fn namespaced(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One. It exists by being named: what has no Lease is free.
    pub(crate) async fn get(&self, name: &str) -> Result<LockView, Failure> {
        Ok(self.look(name).await?.0)
    }

    /// The same, and the version of its Lease if it has one.
    pub(crate) async fn look(&self, name: &str) -> Result<(LockView, Option<String>), Failure> {
        let lease_name = lease_name(name).map_err(|error| Failure::usage(chain(&error)))?;
        match within_limit(self.namespaced().get_opt(&lease_name), "get").await? {
            Some(lease) => {
                let version = lease.metadata.resource_version.clone();
                Ok((view_of(name, lease)?, version))
            }
            None => Ok((LockView::absent(name, &lease_name, &self.namespace), None)),
        }
    }

    fn of(&self, all_namespaces: bool) -> Api<Lease> {
        if all_namespaces { Api::all(self.client.clone()) } else { self.namespaced() }
    }

    /// Those of the namespace, or of all, and the version of the list.
    pub(crate) async fn list(
        &self,
        all_namespaces: bool,
        selector: Option<&str>,
    ) -> Result<(Vec<LockView>, String), Failure> {
        let (leases, version) = self.all(all_namespaces, selector).await?;
        let view = |lease| Record::parse(lease).map(|record| LockView::of(&record));
        let locks = leases.into_iter().map(view).collect::<Result<_, _>>();
        Ok((locks.map_err(|error| Failure::internal(&error))?, version))
    }

    /// The Leases themselves, as they were at one time.
    pub(crate) async fn all(
        &self,
        all_namespaces: bool,
        selector: Option<&str>,
    ) -> Result<(Vec<Lease>, String), Failure> {
        let leases = self.of(all_namespaces);
        let mut params = ListParams::default().labels(&others_than_sessions(selector)).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page: ObjectList<Lease> = within_limit(leases.list(&params), "list").await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok((all, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// Begins to watch them from this version on.
    pub(crate) async fn watch(&self, all_namespaces: bool, from: &str) -> Result<LeaseEvents, Failure> {
        let params = WatchParams::default().labels(&others_than_sessions(None)).timeout(WATCH_SECONDS);
        let leases = self.of(all_namespaces);
        Ok(within_limit(leases.watch(&params, from), "watch").await?.boxed())
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// Where the API server finds fault with a list, it is with its selector.
pub(crate) fn of_selector(failure: Failure, selector: Option<&str>) -> Failure {
    match selector {
        Some(selector) if failure.code == exit::USAGE => {
            Failure::usage(format!("-l {selector:?} is no selector of labels: {}", failure.message))
        }
        _ => failure,
    }
}

/// What stands under this name.
pub(crate) fn view_of(name: &str, lease: Lease) -> Result<LockView, Failure> {
    let record = Record::parse(lease).map_err(|error| Failure::internal(&error))?;
    match record.is_of_another(name) {
        Some(why) => Err(Failure::usage(why)),
        None => Ok(LockView { name: name.to_owned(), ..LockView::of(&record) }),
    }
}

/// Locks, semaphores and read-write locks, of this selector if there is one.
fn others_than_sessions(selector: Option<&str>) -> String {
    let ours = format!("{KIND},{KIND}!={KIND_SESSION}");
    selector.map_or(ours.clone(), |selector| format!("{ours},{selector}"))
}

pub(crate) async fn within_limit<T>(request: impl Future<Output = kube::Result<T>>, verb: &str) -> Result<T, Failure> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| refused(&error, verb)),
        Err(_) => Err(Failure::new(exit::UNREACHABLE, config::unreachable(&format!("no answer within {LIMIT:?}")))),
    }
}

pub(crate) fn refused(error: &kube::Error, verb: &str) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            400 => Failure::usage(status.message.clone()),
            401 => Failure::new(
                exit::FORBIDDEN,
                format!("the API server does not accept the credentials{}: {}", config::of_context(), status.message),
            ),
            403 => Failure::new(exit::FORBIDDEN, forbidden::explain(&status.message, &[verb])),
            408 | 429 | 500.. => {
                Failure::new(exit::UNREACHABLE, format!("the API server cannot answer: {}", status.message))
            }
            _ => Failure::new(exit::INTERNAL, status.message.clone()),
        },
        error => Failure::new(exit::UNREACHABLE, config::unreachable(&chain(error))),
    }
}

pub(crate) async fn list(leases: &Leases, args: &ListArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct List<'a> {
        items: &'a [LockView],
    }
    let listed = leases.list(args.all_namespaces, args.selector.as_deref()).await;
    let (items, version) = listed.map_err(|failure| of_selector(failure, args.selector.as_deref()))?;
    let columns = Columns { namespace: args.all_namespaces, wide: args.output == Some(ListFormat::Wide) };
    if args.watch {
        return follow(leases, args, columns, items, version).await;
    }
    match args.output {
        Some(ListFormat::Json) => print(&json(&List { items: &items })?),
        Some(ListFormat::Yaml) => print(&yaml(&List { items: &items })?),
        Some(ListFormat::Name) => print(&items.iter().map(name_of).collect::<String>()),
        None | Some(ListFormat::Wide) if items.is_empty() => {
            let place = if args.all_namespaces { config::of_context() } else { format!(" {}", leases.place()) };
            exit::say(format_args!("no locks{place}"));
            Ok(())
        }
        None | Some(ListFormat::Wide) => print(&view::table(&items, columns, Style::of_stdout(), true, now().stamp)),
    }
}

/// Shows what there is, and then each that changes, until nobody reads any more.
async fn follow(
    leases: &Leases,
    args: &ListArgs,
    columns: Columns,
    items: Vec<LockView>,
    mut version: String,
) -> Result<(), Failure> {
    let selector = args.selector.as_deref();
    let mut screen = Screen { shown: BTreeMap::new(), output: args.output, columns, header: true };
    let mut read_on = screen.show(items)?;
    let mut pause = Duration::ZERO;
    while read_on {
        let params = WatchParams::default().labels(&others_than_sessions(selector)).timeout(WATCH_SECONDS);
        let (api, from) = (leases.of(args.all_namespaces), version.clone());
        let events = futures::stream::once(async move { api.watch(&params, &from).await }).try_flatten();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let (lease, removed) = match event {
                Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)) => (lease, false),
                Ok(WatchEvent::Deleted(lease)) => (lease, true),
                Ok(WatchEvent::Bookmark(_)) => continue,
                // It began too long ago.
                Ok(WatchEvent::Error(_)) => break,
                Err(error) => match refused(&error, "watch") {
                    failure if failure.code == exit::UNREACHABLE => break,
                    failure => return Err(failure),
                },
            };
            pause = Duration::ZERO;
            let item = Record::parse(lease).ok().as_ref().map(LockView::of);
            read_on = screen.show(item.map(|item| if removed { gone(item) } else { item }))?;
            if !read_on {
                return Ok(());
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE);
        // What has happened meanwhile is seen by listing again.
        match leases.list(args.all_namespaces, selector).await {
            Ok((now, at)) => {
                version = at;
                read_on = screen.show_all(now)?;
            }
            Err(failure) if failure.code == exit::UNREACHABLE => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// What was shown last.
struct Screen {
    shown: BTreeMap<(String, String), LockView>,
    output: Option<ListFormat>,
    columns: Columns,
    header: bool,
}

impl Screen {
    /// Shows those that are not shown like this. Whether anybody reads it.
    fn show(&mut self, items: impl IntoIterator<Item = LockView>) -> Result<bool, Failure> {
        let new: Vec<_> = items.into_iter().filter(|item| self.shown.get(&key(item)) != Some(item)).collect();
        let read_on = show(&new, self.output, self.columns, self.header && !new.is_empty())?;
        self.header &= new.is_empty();
        self.shown.extend(new.into_iter().map(|item| (key(&item), item)));
        Ok(read_on)
    }

    /// These are all that there are.
    fn show_all(&mut self, items: Vec<LockView>) -> Result<bool, Failure> {
        let there: Vec<_> = items.iter().map(key).collect();
        let left = self.shown.values().filter(|item| !there.contains(&key(item))).cloned().map(gone);
        let all: Vec<_> = left.chain(items).collect();
        self.show(all)
    }
}

fn key(item: &LockView) -> (String, String) {
    (item.namespace.clone(), item.lease_name.clone())
}

/// Its Lease was removed: nobody has it.
fn gone(item: LockView) -> LockView {
    LockView { state: State::Free, permits: None, holders: Vec::new(), waiters: Vec::new(), upgrading: None, ..item }
}

fn name_of(item: &LockView) -> String {
    format!("lease.coordination.k8s.io/{}\n", item.lease_name)
}

/// Shows some that have changed. Whether anybody reads that.
fn show(items: &[LockView], output: Option<ListFormat>, columns: Columns, header: bool) -> Result<bool, Failure> {
    let each = |of: &dyn Fn(&LockView) -> Result<String, Failure>| items.iter().map(of).collect::<Result<String, _>>();
    let text = match output {
        Some(ListFormat::Json) => each(&|item| json(item))?,
        Some(ListFormat::Yaml) => each(&|item| Ok(format!("---\n{}", yaml(item)?)))?,
        Some(ListFormat::Name) => each(&|item| Ok(name_of(item)))?,
        None | Some(ListFormat::Wide) if items.is_empty() => return Ok(true),
        None | Some(ListFormat::Wide) => view::table(items, columns, Style::of_stdout(), header, now().stamp),
    };
    print_on(&text)
}

pub(crate) async fn status(leases: &Leases, args: &StatusArgs) -> Result<(), Failure> {
    let mut follower = Follower::new(leases, &args.name);
    let mut shown = None;
    loop {
        let lock = follower.next().await?;
        if shown.as_ref() != Some(&lock) {
            let text = match args.output {
                Some(ListFormat::Json) => json(&lock)?,
                Some(ListFormat::Yaml) if args.watch => format!("---\n{}", yaml(&lock)?),
                Some(ListFormat::Yaml) => yaml(&lock)?,
                Some(ListFormat::Name) => name_of(&lock),
                None if args.watch => view::describe(&lock, Style::of_stdout(), now().stamp) + "\n",
                None => view::describe(&lock, Style::of_stdout(), now().stamp),
                Some(ListFormat::Wide) => {
                    let columns = Columns { namespace: false, wide: true };
                    let one = std::slice::from_ref(&lock);
                    view::table(one, columns, Style::of_stdout(), shown.is_none(), now().stamp)
                }
            };
            if !print_on(&text)? {
                return Ok(());
            }
            shown = Some(lock);
        }
        if !args.watch {
            return Ok(());
        }
    }
}

pub(crate) fn name(args: &NameArgs) -> Result<(), Failure> {
    let name = lease_name(&args.name).map_err(|error| Failure::usage(chain(&error)))?;
    print(&format!("{name}\n"))
}
