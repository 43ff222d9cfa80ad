//! JSON Patch as an API server applies it.
//!
//! It does not keep to RFC 6902 everywhere: what is absent equals `null`, `replace` adds what is absent, `copy` of what
//! is absent gives `null`, and negative indices count from the end of an array.
//!
//! And a `test` compares texts as they are written in JSON. The API server writes `<`, `>`, `&` and two separators of
//! lines as `\u003c` and the like, and whoever sends a patch does not: a text with one of them passes no `test`. The
//! texts of the document that have one are marked here, which makes them unequal to what comes with the patch.

use json_patch::PatchOperation;
use serde_json::{Map, Value};

use super::decode::MARK;

const ESCAPED: [char; 5] = ['<', '>', '&', '\u{2028}', '\u{2029}'];

/// One operation. What it lacks is noticed when its turn comes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operation<'a> {
    pub(super) op: &'a str,
    pub(super) path: Option<&'a str>,
    pub(super) from: Option<&'a str>,
    pub(super) value: Option<&'a Value>,
}

impl<'a> From<&'a PatchOperation> for Operation<'a> {
    fn from(operation: &'a PatchOperation) -> Self {
        let (op, path, from, value) = match operation {
            PatchOperation::Add(it) => ("add", &it.path, None, Some(&it.value)),
            PatchOperation::Remove(it) => ("remove", &it.path, None, None),
            PatchOperation::Replace(it) => ("replace", &it.path, None, Some(&it.value)),
            PatchOperation::Move(it) => ("move", &it.path, Some(it.from.as_str()), None),
            PatchOperation::Copy(it) => ("copy", &it.path, Some(it.from.as_str()), None),
            PatchOperation::Test(it) => ("test", &it.path, None, Some(&it.value)),
        };
        Operation { op, path: Some(path.as_str()), from, value }
    }
}

struct NotText;

fn text(value: Option<&Value>) -> Result<Option<&str>, NotText> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(NotText),
    }
}

/// Reads the operations of a patch. `None`: that is no patch.
pub(super) fn operations(patch: &Value) -> Option<Vec<Operation<'_>>> {
    let read = |operation| match operation {
        &Value::Null => Some(Operation::default()),
        operation => {
            let operation = operation.as_object()?;
            Some(Operation {
                op: text(operation.get("op")).ok()?.unwrap_or_default(),
                path: text(operation.get("path")).ok()?,
                from: text(operation.get("from")).ok()?,
                value: operation.get("value"),
            })
        }
    };
    match patch {
        Value::Null => Some(Vec::new()),
        patch => patch.as_array()?.iter().map(read).collect(),
    }
}

/// Applies a patch. If an operation cannot be applied the document is of no use any more.
pub(super) fn apply(document: &mut Value, operations: &[Operation<'_>]) -> Result<(), String> {
    mark(document);
    for operation in operations {
        let Operation { op, path, .. } = operation;
        one(document, operation).map_err(|why| format!("{op} {:?}: {why}", path.unwrap_or_default()))?;
    }
    Ok(())
}

fn mark(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(ESCAPED) => text.insert(0, MARK),
        Value::Array(list) => list.iter_mut().for_each(mark),
        Value::Object(map) => map.values_mut().for_each(mark),
        _ => {}
    }
}

const MISSING: &str = "missing value";

fn one(document: &mut Value, operation: &Operation<'_>) -> Result<(), &'static str> {
    let path = operation.path.ok_or(MISSING);
    let from = operation.from.ok_or(MISSING);
    let value = || operation.value.cloned().unwrap_or_default();
    match operation.op {
        "add" => place(document, path?)?.add(value()),
        "remove" => place(document, path?)?.remove().map(drop),
        "replace" if path?.is_empty() => match value() {
            Value::Object(_) | Value::Array(_) => {
                *document = Value::Object(Map::new()); // the API server loses what is in the new one
                Ok(())
            }
            _ => Err("the value is neither object nor array"),
        },
        "replace" => place(document, path?)?.replace(value()),
        "move" => {
            let value = place(document, from?)?.remove()?;
            place(document, path?)?.add(value)
        }
        "copy" => {
            let value = place(document, from?)?.get()?.cloned().unwrap_or_default();
            place(document, path?)?.add(value)
        }
        "test" => {
            let there = if path?.is_empty() { Some(&*document) } else { place(document, path?)?.get()? };
            let passes = match (there.unwrap_or(&Value::Null), operation.value) {
                (Value::Null, None) => true,
                (there, Some(value)) => there == value,
                (_, None) => false,
            };
            if passes { Ok(()) } else { Err("test failed") }
        }
        _ => Err("unexpected kind"),
    }
}

/// A place in a document: a container, and a key that need not be there.
struct Place<'a> {
    container: &'a mut Value,
    key: String,
}

fn place<'a>(document: &'a mut Value, path: &str) -> Result<Place<'a>, &'static str> {
    // What comes before the first slash is not looked at.
    let (_, path) = path.split_once('/').ok_or(MISSING)?;
    let mut container = document;
    let mut tokens = path.split('/').map(unescape).peekable();
    while let Some(key) = tokens.next() {
        if tokens.peek().is_none() {
            return match container {
                Value::Object(_) | Value::Array(_) => Ok(Place { container, key }),
                _ => Err(MISSING),
            };
        }
        container = match container {
            Value::Object(map) => map.get_mut(&key),
            Value::Array(list) => {
                let index = index(&key, list.len())?;
                list.get_mut(index)
            }
            _ => None,
        }
        .ok_or(MISSING)?;
    }
    Err(MISSING)
}

fn unescape(token: &str) -> String {
    if token.contains('~') { token.replace("~1", "/").replace("~0", "~") } else { token.to_owned() }
}

/// The index of an element among so many.
fn index(key: &str, count: usize) -> Result<usize, &'static str> {
    const OUT: &str = "invalid index";
    let number: i64 = key.parse().map_err(|_| "not an index")?;
    let count = i64::try_from(count).map_err(|_| OUT)?;
    let number = if number < 0 { number + count } else { number };
    if (0..count).contains(&number) { usize::try_from(number).map_err(|_| OUT) } else { Err(OUT) }
}

impl<'a> Place<'a> {
    fn get(self) -> Result<Option<&'a Value>, &'static str> {
        match self.container {
            Value::Array(list) => Ok(list.get(index(&self.key, list.len())?)),
            container => Ok(container.get(&self.key)),
        }
    }

    fn add(self, value: Value) -> Result<(), &'static str> {
        match self.container {
            Value::Array(list) if self.key == "-" => list.push(value),
            Value::Array(list) => list.insert(index(&self.key, list.len() + 1)?, value),
            Value::Object(map) => drop(map.insert(self.key, value)),
            _ => return Err(MISSING),
        }
        Ok(())
    }

    fn replace(self, value: Value) -> Result<(), &'static str> {
        match self.container {
            Value::Array(list) => {
                let index = index(&self.key, list.len())?;
                list[index] = value;
                Ok(())
            }
            _ => self.add(value),
        }
    }

    fn remove(self) -> Result<Value, &'static str> {
        match self.container {
            Value::Array(list) => {
                let index = index(&self.key, list.len())?;
                Ok(list.remove(index))
            }
            Value::Object(map) => map.remove(&self.key).ok_or(MISSING),
            _ => Err(MISSING),
        }
    }
}
