//! The last stage of a Dockerfile, as far as the operator's has anything in it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// What the last stage says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    /// Where the program goes.
    pub(crate) program: String,
    pub(crate) user: String,
    pub(crate) entrypoint: Vec<String>,
    /// As in `8080/tcp`.
    pub(crate) ports: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Reads it.
///
/// # Errors
/// Where it does not begin with nothing, or says something that is not understood here: the images would differ.
pub(crate) fn last_stage(text: &str) -> Result<Stage> {
    let joined = text.replace("\\\n", " ");
    let lines: Vec<&str> =
        joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let from = lines.iter().rposition(|line| line.starts_with("FROM ")).context("there is no FROM")?;
    ensure!(lines[from] == "FROM scratch", "the last stage must be FROM scratch and is {}", lines[from]);
    let mut stage = Stage::default();
    for line in &lines[from + 1..] {
        let (word, rest) = line.split_once(' ').with_context(|| format!("not understood: {line}"))?;
        match word {
            "LABEL" => {
                let (key, value) = rest.split_once('=').with_context(|| format!("not understood: {line}"))?;
                stage.labels.insert(key.to_owned(), value.trim_matches('"').to_owned());
            }
            "COPY" => {
                ensure!(stage.program.is_empty(), "only the program can be copied: {line}");
                rest.split_whitespace().last().unwrap_or_default().clone_into(&mut stage.program);
            }
            "USER" => rest.clone_into(&mut stage.user),
            "EXPOSE" => stage.ports.push(format!("{rest}/tcp")),
            "ENTRYPOINT" => stage.entrypoint = serde_json::from_str(rest).with_context(|| format!("in {line}"))?,
            _ => bail!("not understood: {line}"),
        }
    }
    ensure!(stage.program.starts_with('/'), "the program is to be copied to a place that begins with /");
    ensure!(stage.entrypoint.first() == Some(&stage.program), "the entry point is not the program that is copied");
    ensure!(!stage.user.is_empty() && !stage.user.starts_with('0'), "it would run as root");
    Ok(stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "FROM rust AS build\nRUN a \\\n  b\nFROM scratch\n# Why.\nLABEL a=\"b c\"\nCOPY --from=build /x /p\n\
                        USER 1:1\nEXPOSE 80\nENTRYPOINT [\"/p\"]\n";

    #[test]
    fn the_last_stage_is_read_and_what_is_not_understood_refused() {
        let stage = last_stage(GOOD).unwrap();
        let labels = [("a".to_owned(), "b c".to_owned())].into();
        let (program, user) = ("/p".to_owned(), "1:1".to_owned());
        let (entrypoint, ports) = (vec![program.clone()], vec!["80/tcp".to_owned()]);
        assert_eq!(stage, Stage { program, user, entrypoint, ports, labels });
        for (from, to) in [
            ("FROM scratch", "FROM debian"),
            ("EXPOSE 80", "RUN true"),
            ("USER 1:1", "USER 0"),
            ("USER 1:1\n", ""),
            ("[\"/p\"]", "[\"/other\"]"),
            ("EXPOSE 80", "COPY a /b"),
        ] {
            last_stage(&GOOD.replace(from, to)).expect_err(to);
        }
    }

    #[test]
    fn the_operators_own_is_understood() {
        let stage = last_stage(include_str!("../../Dockerfile")).unwrap();
        // As the manifests say.
        let deployment = include_str!("../../config/manager/deployment.yaml");
        let (user, group) = stage.user.split_once(':').unwrap();
        assert!(deployment.contains(&format!("runAsUser: {user}\n")));
        assert!(deployment.contains(&format!("runAsGroup: {group}\n")));
        assert_eq!(stage.ports, ["8080/tcp"]);
        assert!(deployment.contains("containerPort: 8080\n"));
    }
}
