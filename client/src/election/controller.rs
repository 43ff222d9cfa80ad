//! A controller of kube's that runs only while its candidate leads.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::{Stream, TryFuture, TryFutureExt};
use kube::Resource;
use kube::runtime::controller::{Action, Controller, Error};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;

use super::Leading;

impl Leading {
    /// Runs a controller while this candidate leads: as [`Controller::run`], with what it yields.
    ///
    /// When the leadership is [ending](Self::ending) the controller shuts down gracefully: it begins no reconcile any more, and the
    /// stream ends when those that run have ended. No poll of a reconcile begins after the deadline: one that has not ended by
    /// then never does, and is dropped with the stream. So the stream belongs into the work of
    /// [`run_whenever_leading`](super::Election::run_whenever_leading), which is dropped then.
    ///
    /// Feature `controller`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(kube: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use std::sync::Arc;
    /// use futures::StreamExt;
    /// use k8s_openapi::api::core::v1::ConfigMap;
    /// use kube::Api;
    /// use kube::runtime::controller::{Action, Controller};
    /// use leasehold::CancellationToken;
    ///
    /// async fn reconcile(_map: Arc<ConfigMap>, _context: Arc<()>) -> Result<Action, Infallible> {
    ///     Ok(Action::await_change())
    /// }
    ///
    /// let election = leasehold::Client::try_default().await?.election("my-operator").build()?;
    /// let stop = CancellationToken::new(); // to be cancelled on SIGTERM
    /// election
    ///     .run_whenever_leading(stop, async |leading| {
    ///         let controller = Controller::new(Api::<ConfigMap>::default_namespaced(kube.clone()), Default::default());
    ///         let reconciles = leading.run_controller(controller, reconcile, |_, error, _| match *error {}, Arc::new(()));
    ///         reconciles.for_each(async |_| {}).await;
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_controller<K, Fut, Ctx, R, P>(
        &self,
        controller: Controller<K>,
        mut reconciler: R,
        error_policy: P,
        context: Arc<Ctx>,
    ) -> impl Stream<Item = Result<(ObjectRef<K>, Action), Error<Fut::Error, watcher::Error>>> + use<K, Fut, Ctx, R, P>
    where
        K: Clone + Resource + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Debug + Unpin,
        Fut: TryFuture<Ok = Action> + Send + 'static,
        Fut::Error: std::error::Error + Send + 'static,
        R: FnMut(Arc<K>, Arc<Ctx>) -> Fut,
        P: Fn(Arc<K>, &Fut::Error, Arc<Ctx>) -> Action,
    {
        let leading = self.clone();
        let guarded = move |object: Arc<K>, context: Arc<Ctx>| {
            let reconcile = TryFutureExt::into_future(reconciler(object, context));
            let leading = leading.clone();
            Box::pin(async move {
                match leading.guard(reconcile).await {
                    Ok(outcome) => outcome,
                    // Nobody is to hear of it, least of all an error policy: the controller is about to be dropped.
                    Err(_) => std::future::pending().await,
                }
            })
        };
        controller.graceful_shutdown_on(self.ending().cancelled_owned()).run(guarded, error_policy, context)
    }
}
