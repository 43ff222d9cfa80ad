//! Selectors of labels and of the two fields that Leases can be selected by.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;

use super::validate::{is_part, is_qualified};

/// Which Leases are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Field, bool, String)>,
}

#[derive(Clone, Debug)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Greater(String, i64),
    Less(String, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// By this nothing can be selected.
    Other,
}

impl Selector {
    /// Reads both kinds. What is wrong with them comes back as a text.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(fields)? })
    }

    /// Whether Leases can be selected by all of its fields.
    pub(super) fn is_supported(&self) -> bool {
        self.fields.iter().all(|(field, _, _)| *field != Field::Other)
    }

    pub(super) fn named(name: &str, labels: &str) -> Result<Self, String> {
        let mut selector = Self::parse(labels, "")?;
        selector.fields.push((Field::Name, true, name.to_owned()));
        Ok(selector)
    }

    /// The only name that it can mean.
    pub(super) fn name(&self) -> Option<&str> {
        self.exact(Field::Name)
    }

    /// The only namespace that it can mean.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.exact(Field::Namespace)
    }

    fn exact(&self, field: Field) -> Option<&str> {
        self.fields.iter().find(|(of, is, _)| *of == field && *is).map(|(_, _, value)| value.as_str())
    }

    pub(super) fn means(&self, lease: &Lease) -> bool {
        let meta = &lease.metadata;
        let empty = BTreeMap::new();
        let labels = meta.labels.as_ref().unwrap_or(&empty);
        self.labels.iter().all(|requirement| requirement.holds(labels))
            && self.fields.iter().all(|(field, is, value)| {
                let there = if *field == Field::Name { &meta.name } else { &meta.namespace };
                (there.as_deref().unwrap_or_default() == value) == *is
            })
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key| labels.get(key).and_then(|value: &String| value.parse::<i64>().ok());
        match self {
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Greater(key, than) => number(key).is_some_and(|value| value > *than),
            Self::Less(key, than) => number(key).is_some_and(|value| value < *than),
        }
    }
}

/// Comma-separated, but for commas between parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split(text).into_iter().map(|part| requirement(part.trim())).collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let wrong = || format!("unable to parse the requirement {part:?}");
    let key = |key: &str| {
        let key = key.trim();
        if is_qualified(key) { Ok(key.to_owned()) } else { Err(format!("{key:?} is not a valid key")) }
    };
    let value = |value: &str| {
        let value = value.trim();
        let fits = value.is_empty() || is_part(value);
        if fits { Ok(value.to_owned()) } else { Err(format!("{value:?} is not a valid value")) }
    };
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    if let Some(absent) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(key(absent)?));
    }
    if let Some(rest) = part.strip_suffix(')') {
        let (head, values) = rest.split_once('(').ok_or_else(wrong)?;
        let (name, operator) = head.trim_end().rsplit_once(char::is_whitespace).ok_or_else(wrong)?;
        let values = values.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        return match operator {
            "in" => Ok(Requirement::In(key(name)?, values)),
            "notin" => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(wrong()),
        };
    }
    if let Some((name, is_not)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key(name)?, vec![value(is_not)?]));
    }
    if let Some((name, is)) = part.split_once('=') {
        return Ok(Requirement::In(key(name)?, vec![value(is.strip_prefix('=').unwrap_or(is))?]));
    }
    if let Some((name, than)) = part.split_once('>') {
        return Ok(Requirement::Greater(key(name)?, number(than)?));
    }
    if let Some((name, than)) = part.split_once('<') {
        return Ok(Requirement::Less(key(name)?, number(than)?));
    }
    Ok(Requirement::Exists(key(part)?))
}

fn parse_fields(text: &str) -> Result<Vec<(Field, bool, String)>, String> {
    text.split(',').filter(|part| !part.is_empty()).map(field).collect()
}

fn field(part: &str) -> Result<(Field, bool, String), String> {
    let (name, is, value) = if let Some((name, value)) = part.split_once("!=") {
        (name, false, value)
    } else {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("invalid field selector {part:?}"))?;
        (name, true, value.strip_prefix('=').unwrap_or(value))
    };
    let field = match name {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        _ => Field::Other,
    };
    Ok((field, is, value.to_owned()))
}
