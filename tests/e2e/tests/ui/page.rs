//! What somebody sees who opens the page.

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use leasehold_testkit::Signal;
use serde_json::json;

use crate::browser::{self, Browser};
use crate::support::{SOON, Scene};

const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">";
const PAYLOAD: &str = "<script>document.title='owned'</script><b>bold</b>";

/// The texts of a row's cells, by their classes.
fn cell(lease: &str, class: &str) -> String {
    format!("document.querySelector('tr[data-key$=\"/{lease}\"] .{class}')?.textContent")
}

#[tokio::test]
async fn what_is_held_and_waited_for_is_seen_and_followed() -> Result<()> {
    if browser::is_left_out() {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let mut first = scene.holder("first", "job", &[]).await?;
    let _hostile = scene.holder("mallory", HOSTILE, &["--payload", PAYLOAD]).await?;
    scene.plant_deadlock().await?;
    let mut ui = scene.ui(&[]).await?;

    let browser = Browser::start(1200, 800).await?;
    browser.open(&ui.url).await?;
    browser.until(&cell("job", "state"), "Held").await?;
    browser.until(&cell("job", "holder"), "first").await?;
    browser.eval("window.not_loaded_again = true").await?;
    let mut second = scene.contender("second", "job", &[])?;
    browser.until(&cell("job", "state"), "Held, contended").await?;
    browser.until(&cell("job", "waiters"), "1").await?;
    browser.until("document.querySelector('#server').textContent", "live").await?;

    // Of one of them everything is shown.
    browser.eval("document.querySelector('tr[data-key$=\"/job\"] a').click()").await?;
    browser.until("document.querySelector('#lock-title').textContent", "job").await?;
    browser.until("document.querySelector('.holders strong')?.textContent", "first").await?;
    browser.until("document.querySelector('.waiters strong')?.textContent", "second").await?;
    let bars =
        "[...document.querySelectorAll('.timeline .bar.holds')].map((bar) => bar.dataset.who.split('_')[0]).join()";
    browser.until(bars, "first").await?;
    browser.until("document.querySelectorAll('.timeline .bar.waits').length", 1).await?;

    // A hand-over is seen as it happens.
    drop(first.stdin());
    browser.until(&cell("job", "holder"), "second").await?;
    browser.until(&cell("job", "state"), "Held").await?;
    browser.until("document.querySelector('.holders strong')?.textContent", "second").await?;
    browser.until(bars, "first,second").await?;
    first.wait_success(SOON).await?;

    // What others have written is text.
    let row = "[...document.querySelectorAll('#rows tr')].find((row) => row.textContent.includes('onerror'))";
    browser.until(&format!("{row}?.querySelector('a').textContent"), HOSTILE).await?;
    browser.eval(&format!("{row}.querySelector('a').click()")).await?;
    browser.until("document.querySelector('#lock-title').textContent", HOSTILE).await?;
    browser.until("document.querySelector('.payload')?.textContent", PAYLOAD).await?;
    browser.until("document.querySelectorAll('main img, main script, main b').length", 0).await?;
    ensure!(browser.eval("document.title").await?.as_str().is_some_and(|title| title.starts_with("Leasehold")));

    graph(&browser).await?;
    keyboard(&browser).await?;

    // When the last holder has gone its Lease goes, and its row.
    drop(second.stdin());
    second.wait_success(SOON).await?;
    browser.until(&cell("job", "name"), serde_json::Value::Null).await?;
    browser.until("document.querySelectorAll('#rows tr').length", 3).await?;

    ensure!(browser.eval("window.not_loaded_again").await? == true, "the page was loaded again");
    ensure!(browser.problems().is_empty(), "{:#?}", browser.problems());
    let requests = browser.requests();
    ensure!(requests.len() > 8 && requests.iter().all(|url| url.starts_with(&ui.url)), "{requests:#?}");

    // It ends, and the page says so.
    ui.process.signal(Signal::TERM)?;
    ui.process.wait_success(SOON).await?;
    browser.until("document.querySelector('#alarm').textContent.includes('ui is not heard of since')", true).await?;
    browser.until("document.querySelector('#server').textContent", "not live").await
}

#[tokio::test]
async fn of_many_a_window_is_drawn() -> Result<()> {
    const MANY: usize = 1000;
    if browser::is_left_out() {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let leases = scene.namespace.api::<Lease>();
    let made = stream::iter(0..MANY).map(async |n| {
        let lease = serde_json::from_value(json!({
            "metadata": { "name": format!("lock-{n:04}"), "labels": { "leasehold.dev/kind": "lock" } },
            "spec": { "holderIdentity": "" },
        }))?;
        leases.create(&PostParams::default(), &lease).await?;
        anyhow::Ok(())
    });
    made.buffer_unordered(16).try_collect::<()>().await?;
    let ui = scene.ui(&[]).await?;
    let browser = Browser::start(1200, 800).await?;
    browser.open(&ui.url).await?;
    let rows = "document.querySelectorAll('#rows tr').length";
    browser.until(rows, 200).await?;
    browser.until("document.querySelector('#count-all').textContent", "(1000)").await?;
    browser
        .until("document.querySelector('#more').textContent.startsWith('200 are shown, and 800 more')", true)
        .await?;
    browser.eval("document.querySelector('#more button').click()").await?;
    browser.until(rows, 400).await?;
    let search = "document.querySelector('#search').value = '-0999'; \
        document.querySelector('#search').dispatchEvent(new Event('input'))";
    browser.eval(search).await?;
    browser.until(rows, 1).await?;
    let mut holder = scene.holder("first", "lock-0999", &[]).await?;
    browser.until(&cell("lock-0999", "holder"), "first").await?;
    drop(holder.stdin());
    holder.wait_success(SOON).await?;
    browser.until(&cell("lock-0999", "state"), "Free").await?;
    ensure!(browser.problems().is_empty(), "{:#?}", browser.problems());
    Ok(())
}

async fn graph(browser: &Browser) -> Result<()> {
    browser.eval("document.querySelector('#to-graph').click()").await?;
    browser.until("document.querySelectorAll('.graph .node.circle').length", 4).await?;
    browser.until("document.querySelectorAll('.graph .edge.circle').length", 4).await?;
    let told = browser.eval("document.querySelector('#circles').textContent").await?;
    let told = told.as_str().unwrap_or_default();
    ensure!(told.contains("left_") && told.contains("right_") && told.contains("apples"), "{told}");
    // Where a circle has no box outside the picture and none upon another.
    let boxes = "const boxes = [...document.querySelectorAll('.graph .node rect')].map((r) => r.getBBox()); \
        boxes.every((a, n) => a.x >= 0 && a.y >= 0 && boxes.every((b, m) => n === m || a.x + a.width <= b.x || \
        b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y))";
    browser.until(&format!("(() => {{ {} }})()", boxes.replacen("boxes.every", "return boxes.every", 1)), true).await
}

async fn keyboard(browser: &Browser) -> Result<()> {
    browser.eval("document.querySelector('#to-list').click()").await?;
    browser.until("document.querySelector('#list').hidden", false).await?;
    browser.press("/", 191, "/").await?;
    browser.until("document.activeElement.id", "search").await?;
    for letter in ["p", "e", "a"] {
        browser.press(letter, 0, letter).await?;
    }
    browser.until("[...document.querySelectorAll('#rows th a')].map((a) => a.textContent).join()", "pears").await?;
    browser.eval("document.querySelector('#rows a').focus()").await?;
    browser.press("Enter", 13, "\r").await?;
    browser.until("document.querySelector('#lock-title').textContent", "pears").await?;
    browser.press("Escape", 27, "").await?;
    browser.until("document.querySelector('#lock').hidden", true).await?;
    browser.eval("document.querySelector('#search').value = ''; document.querySelector('#search').dispatchEvent(new Event('input'))").await?;
    // Sorted by another column.
    browser.eval("document.querySelector('button[data-sort=waiters]').click()").await?;
    browser.until("document.querySelector('th.waiters').getAttribute('aria-sort')", "descending").await?;
    browser.eval("document.querySelector('input[value=contended]').click()").await?;
    browser.until("document.querySelectorAll('#rows tr').length", 2).await?;
    browser.eval("document.querySelector('input[value=all]').click()").await?;
    browser.until("document.querySelectorAll('#rows tr').length", 4).await?;
    Ok(())
}
