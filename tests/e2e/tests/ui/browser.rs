//! Chromium without a window, driven by its `DevTools` protocol over a pair of pipes.
//!
//! There is no test of a page without it: where Chromium is missing, tests fail and say so, unless they are told to do
//! without it.

use std::collections::HashMap;
use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use leasehold_testkit::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::SOON;

/// Names another program than those that are looked for, or says that there is to be none.
const VARIABLE: &str = "LEASEHOLD_TEST_CHROMIUM";
const NONE: &str = "none";
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// What is written to the browser ends with this, and so does what it writes.
const END: u8 = 0;

/// What the browser has told, and what it has yet to answer.
#[derive(Default)]
struct Heard {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    /// Errors of scripts and on the console, and answers that are none.
    problems: Vec<String>,
    /// The addresses of all requests.
    requests: Vec<String>,
}

/// A browser with one page.
pub(crate) struct Browser {
    _process: Child,
    _profile: TempDir,
    writer: tokio::sync::Mutex<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    next: AtomicU64,
    session: Option<String>,
}

/// Whether the page is to be tested in no browser. Whoever looks at the output is told.
pub(crate) fn is_left_out() -> bool {
    let left_out = env::var_os(VARIABLE).is_some_and(|named| named == NONE);
    if left_out {
        // Not by a macro, whose output is shown of tests that fail only.
        let _ = writeln!(std::io::stderr(), "{VARIABLE}={NONE}: THE PAGE IS NOT TESTED IN A BROWSER");
    }
    left_out
}

fn program() -> Result<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE) {
        return Ok(named.into());
    }
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let found = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    found.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("the page is tested in Chromium, and there is none of {PROGRAMS:?}: apt-get install chromium, or name it by {VARIABLE}")
    })
}

impl Browser {
    /// With a page of this size.
    pub(crate) async fn start(width: u32, height: u32) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        // Its pipes are descriptors 3 and 4, to which only a shell brings them without unsafe code.
        let mut process = Command::new("/bin/sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(program()?)
            .args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-default-apps", "--disable-extensions", "--hide-scrollbars", "--lang=en-GB"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .env("LANG", "en_GB.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start Chromium")?;
        let writer = process.stdin.take().context("it has no pipe")?;
        let reader = process.stdout.take().context("it has no pipe")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        tokio::spawn(listen(reader, Arc::clone(&heard)));
        let mut browser = Self {
            _process: process,
            _profile: profile,
            writer: tokio::sync::Mutex::new(writer),
            heard,
            next: AtomicU64::new(1),
            session: None,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attached).await?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        browser.call("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(browser)
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let (sender, answer) = oneshot::channel();
        self.heard.lock().unwrap().waiting.insert(id, sender);
        let mut bytes = message.to_string().into_bytes();
        bytes.push(END);
        let mut writer = self.writer.lock().await;
        writer.write_all(&bytes).await.context("Chromium does not read: did it start?")?;
        writer.flush().await?;
        drop(writer);
        let answer = timeout(SOON, answer).await.with_context(|| format!("no answer to {method}"))?;
        let mut answer = answer.map_err(|_| anyhow!("Chromium has ended"))?;
        ensure!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
        Ok(answer["result"].take())
    }

    pub(crate) async fn open(&self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({ "url": url })).await?;
        ensure!(answer.get("errorText").is_none(), "{url}: {answer}");
        Ok(())
    }

    /// What a script of the test makes of the page.
    pub(crate) async fn eval(&self, script: &str) -> Result<Value> {
        let params = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", params).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{script}: {thrown}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until a script says what is expected.
    pub(crate) async fn until(&self, script: &str, expected: impl Into<Value>) -> Result<()> {
        let expected = expected.into();
        eventually(SOON, script, async || {
            let is = self.eval(script).await?;
            ensure!(is == expected, "it is {is}, and not {expected}");
            Ok(())
        })
        .await
    }

    /// Presses a key as a person does.
    pub(crate) async fn press(&self, key: &str, code: u32, text: &str) -> Result<()> {
        let event = |kind| json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", event("keyDown")).await?;
        self.call("Input.dispatchKeyEvent", event("keyUp")).await?;
        Ok(())
    }

    /// What went wrong in the page so far.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.heard.lock().unwrap().problems.clone()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.heard.lock().unwrap().requests.clone()
    }

    /// What the page looks like, as PNG.
    pub(crate) async fn screenshot(&self, path: &Path) -> Result<()> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png", "optimizeForSpeed": false })).await?;
        let text = answer["data"].as_str().context("no picture")?;
        std::fs::write(path, base64(text)?).with_context(|| format!("cannot write {}", path.display()))
    }
}

async fn listen(reader: ChildStdout, heard: Arc<Mutex<Heard>>) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(END, &mut bytes).await, Ok(1..)) {
        bytes.pop();
        let message: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        bytes.clear();
        let mut heard = heard.lock().unwrap();
        if let Some(waiting) = message["id"].as_u64().and_then(|id| heard.waiting.remove(&id)) {
            let _ = waiting.send(message);
            continue;
        }
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => heard.problems.push(params["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if params["type"] != "log" => heard.problems.push(params["args"].to_string()),
            "Log.entryAdded" => heard.problems.push(params["entry"].to_string()),
            "Network.requestWillBeSent" => {
                heard.requests.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            "Network.responseReceived" if params["response"]["status"].as_u64() >= Some(400) => {
                heard.problems.push(params["response"].to_string());
            }
            _ => {}
        }
    }
    // Whoever still waits for an answer hears that there is none.
    heard.lock().unwrap().waiting.clear();
}

/// The bytes of a text in base64.
fn base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("no base64: {c}"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(bytes)
}

#[test]
fn base64_is_read() {
    assert_eq!(base64("aGVsbG8/Pj4=").unwrap(), b"hello?>>");
    assert!(base64("a b").is_err());
}
