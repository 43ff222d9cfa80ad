//! Reads a Lease as an API server does: `null` is the field's zero value, unknown fields are left out, and a value of
//! another type is an error.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, MicroTime, ObjectMeta, OwnerReference, Time};
use serde_json::{Map, Value};

const API_VERSION: &str = "coordination.k8s.io/v1";
/// A version that is not served here, and that is known all the same.
const BETA: &str = "coordination.k8s.io/v1beta1";
const KIND: &str = "Lease";

/// What is wrong with an object.
pub(super) type Wrong = String;

struct Fields(Map<String, Value>);

/// A Lease that was sent.
pub(super) fn lease(value: Value) -> Result<Lease, Wrong> {
    of_version(value, &[API_VERSION])
}

/// A Lease that came of a patch.
pub(super) fn patched(value: Value) -> Result<Lease, Wrong> {
    of_version(value, &[API_VERSION, BETA])
}

fn of_version(value: Value, versions: &[&str]) -> Result<Lease, Wrong> {
    let mut fields = Fields::of(value, "the object")?;
    if fields.text("apiVersion")?.is_some_and(|version| !versions.contains(&version.as_str())) {
        return Err(format!("the apiVersion is not {API_VERSION}"));
    }
    if fields.text("kind")?.is_some_and(|kind| kind != KIND) {
        return Err(format!("the kind is not {KIND}"));
    }
    Ok(Lease { metadata: metadata(fields.object("metadata")?)?, spec: Some(spec(fields.object("spec")?)?) })
}

fn metadata(mut fields: Fields) -> Result<ObjectMeta, Wrong> {
    Ok(ObjectMeta {
        annotations: fields.texts("annotations")?,
        creation_timestamp: fields.time("creationTimestamp")?,
        deletion_grace_period_seconds: fields.integer("deletionGracePeriodSeconds")?,
        deletion_timestamp: fields.time("deletionTimestamp")?,
        finalizers: fields.list("finalizers", text)?,
        generate_name: fields.text("generateName")?,
        generation: fields.integer("generation")?.filter(|generation| *generation != 0),
        labels: fields.texts("labels")?,
        managed_fields: fields.list_as_it_is("managedFields", managed_fields)?,
        name: fields.text("name")?,
        namespace: fields.text("namespace")?,
        owner_references: fields.list("ownerReferences", owner)?,
        resource_version: fields.text("resourceVersion")?,
        uid: fields.text("uid")?,
        ..ObjectMeta::default()
    })
}

fn spec(mut fields: Fields) -> Result<LeaseSpec, Wrong> {
    let int32 = |number: Option<i64>| match number.map(i32::try_from).transpose() {
        Ok(number) => Ok(number),
        Err(_) => Err("a number is too large".to_owned()),
    };
    fields.optional("strategy", text)?;
    fields.optional("preferredHolder", text)?;
    // What the two say is for coordinated leader election, a feature that is off.
    Ok(LeaseSpec {
        acquire_time: fields.optional("acquireTime", micro_time)?,
        holder_identity: fields.optional("holderIdentity", text)?,
        lease_duration_seconds: int32(fields.integer("leaseDurationSeconds")?)?,
        lease_transitions: int32(fields.integer("leaseTransitions")?)?,
        renew_time: fields.optional("renewTime", micro_time)?,
        ..LeaseSpec::default()
    })
}

fn owner(value: Value) -> Result<OwnerReference, Wrong> {
    let mut fields = Fields::of(value, "an owner reference")?;
    Ok(OwnerReference {
        api_version: fields.text("apiVersion")?.unwrap_or_default(),
        block_owner_deletion: fields.boolean("blockOwnerDeletion")?,
        controller: fields.boolean("controller")?,
        kind: fields.text("kind")?.unwrap_or_default(),
        name: fields.text("name")?.unwrap_or_default(),
        uid: fields.text("uid")?.unwrap_or_default(),
    })
}

fn managed_fields(value: Value) -> Result<ManagedFieldsEntry, Wrong> {
    let mut fields = Fields::of(value, "an entry of managedFields")?;
    Ok(ManagedFieldsEntry {
        api_version: fields.text("apiVersion")?,
        fields_type: fields.text("fieldsType")?,
        manager: fields.text("manager")?,
        operation: fields.text("operation")?,
        subresource: fields.text("subresource")?,
        time: fields.time("time")?,
        fields_v1: None,
    })
}

impl Fields {
    fn of(value: Value, what: &str) -> Result<Self, Wrong> {
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            Value::Null => Ok(Self(Map::new())),
            _ => Err(format!("{what} is not a JSON object")),
        }
    }

    fn optional<T>(&mut self, key: &str, read: fn(Value) -> Result<T, Wrong>) -> Result<Option<T>, Wrong> {
        match self.0.get_mut(key).map(Value::take) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).map_err(|wrong| format!("{key}: {wrong}")),
        }
    }

    /// A text for which there is no difference between empty and absent.
    fn text(&mut self, key: &str) -> Result<Option<String>, Wrong> {
        Ok(self.optional(key, text)?.filter(|text| !text.is_empty()))
    }

    fn integer(&mut self, key: &str) -> Result<Option<i64>, Wrong> {
        self.optional(key, |value| value.as_i64().ok_or_else(|| "not a whole number".to_owned()))
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, Wrong> {
        self.optional(key, |value| value.as_bool().ok_or_else(|| "not true or false".to_owned()))
    }

    fn time(&mut self, key: &str) -> Result<Option<Time>, Wrong> {
        self.optional(key, |value| go_time(&text(value)?, false).map(Time))
    }

    fn object(&mut self, key: &str) -> Result<Self, Wrong> {
        Self::of(self.0.get_mut(key).map(Value::take).unwrap_or_default(), key)
    }

    fn texts(&mut self, key: &str) -> Result<Option<BTreeMap<String, String>>, Wrong> {
        let Self(fields) = self.object(key)?;
        let read = |(key, value): (String, Value)| match value {
            Value::Null => Ok((key, String::new())),
            value => text(value).map(|value| (key, value)),
        };
        let texts: BTreeMap<_, _> = fields.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Some(texts).filter(|texts| !texts.is_empty()))
    }

    fn list<T>(&mut self, key: &str, read: fn(Value) -> Result<T, Wrong>) -> Result<Option<Vec<T>>, Wrong> {
        Ok(self.list_as_it_is(key, read)?.filter(|list| !list.is_empty()))
    }

    /// A list for which there is a difference between empty and absent.
    fn list_as_it_is<T>(&mut self, key: &str, read: fn(Value) -> Result<T, Wrong>) -> Result<Option<Vec<T>>, Wrong> {
        let list = match self.0.get_mut(key).map(Value::take) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(format!("{key} is not a list")),
        };
        list.into_iter().map(read).collect::<Result<_, _>>().map(Some)
    }
}

/// Marks a text of a document that is patched: see [`super::json_patch`].
pub(super) const MARK: char = '\u{10ffff}';

fn text(value: Value) -> Result<String, Wrong> {
    match value {
        Value::String(mut text) => {
            if text.starts_with(MARK) {
                text.remove(0);
            }
            Ok(text)
        }
        Value::Null => Ok(String::new()),
        _ => Err("not a string".to_owned()),
    }
}

fn micro_time(value: Value) -> Result<MicroTime, Wrong> {
    go_time(&text(value)?, true).map(MicroTime)
}

/// Go's RFC 3339 takes less than others: one way to write the date, and of a `MicroTime` exactly six digits.
fn go_time(text: &str, micro: bool) -> Result<Timestamp, Wrong> {
    let wrong = || format!("{text:?} is not a time as it is written here");
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest = shape.strip_prefix("0000-00-00T00:00:00").ok_or_else(wrong)?;
    let digits = rest.strip_prefix('.').map_or(0, |fraction| fraction.chars().take_while(|c| *c == '0').count());
    let zone = rest.get(if digits > 0 { digits + 1 } else { 0 }..).ok_or_else(wrong)?;
    let fits = if micro { digits == 6 } else { true };
    if !fits || !matches!(zone, "Z" | "+00:00" | "-00:00") || text.get(17..19) == Some("60") {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}
