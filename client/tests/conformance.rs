//! Every implementation does what is asked of it, and what does not is told so.

mod homemade;

use std::sync::Arc;

use futures::FutureExt;
use homemade::{Fault, Homemade};
use leasehold::provider::{LockProvider, NoopProvider, Provider, SemaphoreProvider};
use leasehold::testing::conformance::{self, Promises};
use leasehold::{Client, MemoryStore};

#[tokio::test]
async fn what_is_in_memory_keeps_every_promise() {
    let store = MemoryStore::new();
    let process =
        async || Arc::new(Client::builder().store(Arc::new(store.clone())).build().unwrap()) as Arc<dyn Provider>;
    conformance::all(process, Promises::all()).await;
}

#[tokio::test]
async fn nothing_at_all_keeps_what_it_can() {
    let noop = NoopProvider::new();
    let mut promises = Promises::none();
    promises.tokens = true;
    conformance::all(async || Arc::new(noop.clone()) as Arc<dyn Provider>, promises).await;
}

/// What is asked of a lock, as far as the first rule that is broken.
async fn broken_rule(process: impl AsyncFn() -> Arc<dyn LockProvider>) -> Option<String> {
    let asked = conformance::lock(process, Promises::all());
    let panic = std::panic::AssertUnwindSafe(asked).catch_unwind().await.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

async fn homemade(fault: Option<Fault>) -> Option<String> {
    let shared = Homemade::new(fault);
    broken_rule(async || Arc::new(shared.clone()) as Arc<dyn LockProvider>).await
}

#[tokio::test(start_paused = true)]
async fn one_that_somebody_else_made_passes_too() {
    assert_eq!(homemade(None).await, None);
}

#[tokio::test(start_paused = true)]
async fn two_holders_at_once_are_told() {
    for fault in [Fault::TriesTakeWhatIsHeld, Fault::LetsInAnybodyNowAndThen] {
        let told = homemade(Some(fault)).await.expect("it is broken");
        assert!(told.contains("two hold it at once"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_do_not_grow_are_told() {
    let told = homemade(Some(Fault::TokensStandStill)).await.expect("it is broken");
    assert!(told.contains("tokens do not grow"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_none_is_told() {
    let told = homemade(Some(Fault::LastComeFirstServed)).await.expect("it is broken");
    assert!(told.contains("not served in the order in which they came"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_guard_that_checks_is_told() {
    let told = homemade(Some(Fault::LostGuardsCheck)).await.expect("it is broken");
    assert!(told.contains("a guard still checks when somebody else has it"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_a_release_does_not_tell_is_told() {
    let told = homemade(Some(Fault::ReleasesSayOk)).await.expect("it is broken");
    assert!(told.contains("the release of what had been lost must say so"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_limit_that_is_ignored_is_told() {
    let told = homemade(Some(Fault::LimitsAreIgnored)).await.expect("it is broken");
    assert!(told.contains("a wait limit of 300ms was ignored"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_stays_behind_is_told() {
    let told = homemade(Some(Fault::CancelledWaitersStay)).await.expect("it is broken");
    assert!(told.contains("not within 60s"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn one_that_excludes_nobody_is_told() {
    let noop = NoopProvider::new();
    let told = broken_rule(async || Arc::new(noop.clone()) as Arc<dyn LockProvider>).await.expect("it excludes nobody");
    assert!(told.contains("two hold it at once"), "{told}");
    let asked = async || Arc::new(noop.clone()) as Arc<dyn SemaphoreProvider>;
    let asked = std::panic::AssertUnwindSafe(conformance::semaphore(asked, Promises::all()));
    assert!(asked.catch_unwind().await.is_err());
}
