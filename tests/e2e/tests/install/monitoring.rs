//! What Prometheus and Grafana are told, against what the operator serves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{Program, bin, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::apply::installed;
use crate::support::{ROOT, SOON, check_log, run, tool};

/// Labels that Prometheus adds to what it scrapes.
const TARGET: [&str; 3] = ["namespace", "pod", "job"];

fn rules() -> Result<Value> {
    Ok(serde_yaml_ng::from_str(&fs::read_to_string(format!("{ROOT}/config/monitoring/rules.yaml"))?)?)
}

fn alerts(rules: &Value) -> Vec<&Value> {
    let groups = rules["spec"]["groups"].as_array().into_iter().flatten();
    groups.flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect()
}

/// Every expression of the dashboard, with something in the place of Grafana's variables.
fn shown() -> Result<Vec<String>> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(format!("{ROOT}/config/monitoring/dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.map(|target| Ok(target["expr"].as_str().context("an expression")?.to_owned()));
    let plain = |text: String| text.replace("$__rate_interval", "5m").replace("$namespace", ".*");
    expressions.map(|text| text.map(plain)).collect()
}

/// The metrics that an expression names, each with what is asked of its labels.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("leasehold_") {
        let name: String = rest[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        rest = &rest[at + name.len()..];
        let asked = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(asked, _)| asked);
        let asked = asked.into_iter().flat_map(|asked| asked.split(',')).map(|one| one.trim().to_owned());
        found.push((name, asked.collect()));
    }
    found
}

/// Whether a line of what is served is of this metric, with these labels.
fn serves(line: &str, name: &str, asked: &[String]) -> bool {
    let Some(labels) = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])) else { return false };
    asked.iter().all(|one| {
        let key = one.split(['=', '!', '~']).next().unwrap_or_default();
        let equal = one.contains('=') && !one.contains("=~") && !one.contains('!');
        TARGET.contains(&key) || labels.contains(&if equal { one.clone() } else { format!("{key}=\"") })
    })
}

#[test]
fn what_an_expression_asks_for_is_found() {
    let found = selectors("sum(rate(leasehold_a_total{x=\"y\", z!~\"q\"}[5m])) / leasehold_b");
    let asked = vec!["x=\"y\"".to_owned(), "z!~\"q\"".to_owned()];
    assert_eq!(found, [("leasehold_a_total".to_owned(), asked.clone()), ("leasehold_b".to_owned(), vec![])]);
    assert!(serves("leasehold_a_total{x=\"y\",z=\"1\"} 4", "leasehold_a_total", &asked));
    assert!(!serves("leasehold_a_total{x=\"n\",z=\"1\"} 4", "leasehold_a_total", &asked));
    assert!(!serves("leasehold_a_total{x=\"y\"} 4", "leasehold_a_total", &asked));
    assert!(!serves("leasehold_a_total_b 4", "leasehold_a_total", &[]));
}

#[tokio::test]
async fn every_metric_of_dashboard_rules_and_documents_is_served() -> Result<()> {
    let cluster = installed().await?;
    let operator = Program::new(bin("leasehold-operator")?)
        .args(["run", "--metrics-addr", "127.0.0.1:0", "--leader-election", "false", "--log-format", "json"])
        .env("KUBECONFIG", cluster.kubeconfig_path())
        .start()?;
    let address = eventually(SOON, "the operator to serve", async || {
        let output = operator.output();
        let logged: Option<Value> = output.lines().find_map(|line| serde_json::from_str(line).ok());
        let address = logged.as_ref().and_then(|line| line["fields"]["address"].as_str());
        address.map(str::to_owned).with_context(|| output.clone())
    });
    let mut stream = TcpStream::connect(address.await?).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n").await?;
    let mut served = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut served)).await??;

    check_log(&operator.output())?;

    let rules = rules()?;
    let mut expressions = shown()?;
    expressions.extend(alerts(&rules).iter().map(|alert| alert["expr"].as_str().unwrap_or_default().to_owned()));
    ensure!(expressions.len() > 20, "{expressions:?}");
    for expression in &expressions {
        let selectors = selectors(expression);
        ensure!(!selectors.is_empty(), "it asks for nothing: {expression}");
        for (name, asked) in selectors {
            ensure!(served.lines().any(|line| serves(line, &name, &asked)), "{name} {asked:?} is not in\n{served}");
        }
    }
    // The documents have the very same metrics as the operator.
    let told = fs::read_to_string(format!("{ROOT}/docs/operator.md"))?;
    let written: BTreeSet<String> = selectors(&told.replace('`', " ")).into_iter().map(|(name, _)| name).collect();
    let family = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
    };
    let families: BTreeSet<String> = served.lines().filter_map(family).collect();
    let leading = |name: &&String| name.starts_with("leasehold_") && *name != "leasehold_operator";
    assert_eq!(written.iter().filter(leading).collect::<Vec<_>>(), families.iter().collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn the_rules_fire_when_they_should_and_not_before() -> Result<()> {
    let rules = rules()?;
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/install/rules_test.yaml");
    let folder = tempfile::tempdir()?;
    let plain = folder.path().join("rules.yaml");
    fs::write(&plain, serde_yaml_ng::to_string(&rules["spec"])?)?;
    // An expression that no rule may be made of is refused here.
    let panels =
        shown()?.into_iter().enumerate().map(|(n, expr)| json!({ "record": format!("panel_{n}"), "expr": expr }));
    let panels = json!({ "groups": [{ "name": "dashboard", "rules": panels.collect::<Vec<_>>() }] });
    fs::write(folder.path().join("panels.yaml"), serde_yaml_ng::to_string(&panels)?)?;
    fs::copy(tests, folder.path().join("rules_test.yaml"))?;
    let promtool = tool("promtool").await?;
    let call = async |args: &[&str]| run(Command::new(&promtool).current_dir(folder.path()).args(args)).await;
    call(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", "panels.yaml"]).await?;
    call(&["test", "rules", "rules_test.yaml"]).await?;

    // Of each alert it is seen that it fires, and that it does not.
    let tried: Value = serde_yaml_ng::from_str(&fs::read_to_string(tests)?)?;
    let cases = tried["tests"].as_array().into_iter().flatten();
    let cases: Vec<&Value> = cases.flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten()).collect();
    let operations = fs::read_to_string(format!("{ROOT}/docs/operations.md"))?;
    for alert in alerts(&rules) {
        let name = alert["alert"].as_str().context("only alerts are here")?;
        for fires in [true, false] {
            let seen = cases.iter().any(|case| {
                let expected = case["exp_alerts"].as_array().is_some_and(|all| !all.is_empty());
                case["alertname"] == name && expected == fires
            });
            ensure!(seen, "{name}: it is not tried that it fires: {fires}");
        }
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let (page, anchor) = runbook.split_once('#').context("a runbook")?;
        ensure!(page.ends_with("/docs/operations.md") && anchor == name.to_lowercase(), "{runbook}");
        ensure!(operations.contains(&format!("\n### {name}\n")), "{name} is not in docs/operations.md");
        for text in ["summary", "description"] {
            ensure!(alert["annotations"][text].as_str().is_some_and(|text| text.len() > 20), "{name}: {text}");
        }
        ensure!(["warning", "critical"].map(Value::from).contains(&alert["labels"]["severity"]), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn the_prometheus_operators_definitions_take_what_config_monitoring_has() -> Result<()> {
    let cluster = installed().await?;
    let definitions = tool("crds").await?;
    for plural in ["servicemonitors", "prometheusrules"] {
        let file = Path::new(&definitions).join(format!("monitoring.coreos.com_{plural}.yaml"));
        cluster.kubectl(&["apply", "--server-side", "-f", &file.to_string_lossy()]).await?;
        let definition = format!("crd/{plural}.monitoring.coreos.com");
        cluster.kubectl(&["wait", "--for=condition=Established", &definition]).await?;
    }
    let manifests = format!("{ROOT}/config/monitoring");
    eventually(SOON, "the definitions to be served", async || {
        cluster.kubectl(&["apply", "-k", &manifests, "--validate=strict"]).await
    })
    .await?;
    // It selects the Service that is there, by a port that it has.
    let monitor =
        cluster.kubectl(&["get", "servicemonitor", "leasehold-operator", "-n", "leasehold-system", "-o", "json"]);
    let monitor: Value = serde_json::from_str(&monitor.await?)?;
    let labels = monitor["spec"]["selector"]["matchLabels"].as_object().context("labels")?;
    let selector: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let services = ["get", "services", "-n", "leasehold-system", "-o", "json", "-l", &selector.join(",")];
    let services: Value = serde_json::from_str(&cluster.kubectl(&services).await?)?;
    assert_eq!(services["items"].as_array().map(Vec::len), Some(1), "{services:#}");
    assert_eq!(services["items"][0]["spec"]["ports"][0]["name"], monitor["spec"]["endpoints"][0]["port"]);
    Ok(())
}
