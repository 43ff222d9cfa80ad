//! Runs a sequence on both servers, and shortens one in which they differ.

use std::fmt;

use anyhow::Result;
use kube::Client;
use leasehold::testing::ApiServer;
use serde_json::{Value, json};

use crate::compare::comparable;
use crate::side::Side;
use crate::step::{Body, Request, Step};
use crate::watches::{fence, told};

/// Two namespaces of the real server.
pub(crate) struct Pair {
    pub(crate) client: Client,
    pub(crate) namespaces: [String; 2],
}

/// Where the servers differ.
#[derive(Debug)]
pub(crate) struct Difference {
    steps: Vec<Step>,
    /// The step whose answers, or events, they are.
    at: usize,
    real: Value,
    memory: Value,
    /// What they say, which need not be the same.
    messages: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps.iter().enumerate() {
            writeln!(f, "{} {step}", if n == self.at { "=>" } else { "  " })?;
        }
        writeln!(f, "the real one: {:#}", self.real)?;
        write!(f, "the one in memory: {:#}{}", self.memory, self.messages)
    }
}

/// `None`: there is no difference.
pub(crate) async fn run(pair: &Pair, steps: &[Step]) -> Result<Option<Difference>> {
    let server = ApiServer::new();
    // What happened before is as forgotten there as in the real one, and no number is taken for another.
    server.advance(5_000_000_000);
    server.compact();
    let namespaces = pair.namespaces.clone();
    let mut real = Side::new(pair.client.clone(), namespaces.clone());
    let mut memory = Side::new(server.client("default"), namespaces);
    let mut watches = Vec::new();
    let difference = |at, real, memory, messages: &dyn Fn() -> String| {
        (real != memory).then(|| Difference { steps: steps.to_vec(), at, real, memory, messages: messages() })
    };
    let mut found = None;
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Request(request) => {
                let answers = (real.send(request).await?, memory.send(request).await?);
                found = difference(at, comparable(&real, &answers.0), comparable(&memory, &answers.1), &|| {
                    let [real, memory] = [&answers.0, &answers.1].map(|answer| &answer.object["message"]);
                    format!("\n{real}\n{memory}")
                });
            }
            Step::Watch(watch) => watches.push((at, real.watch(watch).await?, memory.watch(watch).await?)),
        }
        if found.is_some() {
            break;
        }
    }
    clear(&mut real).await?;
    if found.is_some() {
        return Ok(found);
    }
    clear(&mut memory).await?;
    for (at, step) in steps.iter().enumerate() {
        if let Step::Watch(watch) = step {
            fence(&mut real, watch, at).await?;
            fence(&mut memory, watch, at).await?;
        }
    }
    for (at, of_real, of_memory) in watches {
        let events = (told(&mut real, of_real, at).await?, told(&mut memory, of_memory, at).await?);
        if let Some(found) = difference(at, json!(events.0), json!(events.1), &String::new) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Removes everything, in the order in which it was first seen.
async fn clear(side: &mut Side) -> Result<()> {
    for namespace in 0..2 {
        let mut names = side.present(namespace).await?;
        names.sort_by_key(|name| side.names.iter().position(|seen| seen == name));
        for name in names {
            let request = |method, content_type, body| Request {
                method,
                namespace: Some(namespace),
                name: Some(name.clone()),
                query: Vec::new(),
                content_type,
                body,
            };
            let unhindered = json!({ "metadata": { "finalizers": null } });
            side.send(&request("PATCH", "application/merge-patch+json", Body::Json(unhindered))).await?;
            side.send(&request("DELETE", "application/json", Body::None)).await?;
        }
    }
    Ok(())
}

/// The shortest sequence with a difference that is found by leaving out steps.
pub(crate) async fn shortened(pair: &Pair, mut steps: Vec<Step>, mut difference: Difference) -> Result<Difference> {
    if matches!(steps[difference.at], Step::Request(_)) {
        steps.truncate(difference.at + 1);
        difference.steps.clone_from(&steps);
    }
    let mut left_out = steps.len();
    while left_out > 0 {
        left_out -= 1;
        let mut fewer = steps.clone();
        fewer.remove(left_out);
        // A run that cannot be finished shows nothing.
        if let Ok(Some(found)) = run(pair, &fewer).await {
            (steps, difference) = (fewer, found);
            left_out = left_out.min(steps.len());
        }
    }
    Ok(difference)
}
