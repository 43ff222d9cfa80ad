//! The definitions of the custom resources: whether they are there, served, and those that this release comes with.
//!
//! They are compared field by field with `crds/*.yaml`, which this program has in it: a version's name stays `v1alpha1`
//! while fields come, so the name tells nothing, and a hash would say that something differs but not what.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{Api, Client};
use serde_json::Value;

use super::fetch::{Look, Miss, ask};
use super::report::{Finding, Object, Verdict};
use super::site::Site;

pub(super) const CHECK: &str = "definitions";

const GROUP_VERSION: &str = "leasehold.dev/v1alpha1";
const VERSION: &str = "v1alpha1";
/// Plural, and the definition that this release comes with.
pub(super) const KINDS: [(&str, &str, &str); 3] = [
    ("distributedlocks", "DistributedLock", include_str!("crds/distributedlock.yaml")),
    ("semaphores", "Semaphore", include_str!("crds/semaphore.yaml")),
    ("readwritelocks", "ReadWriteLock", include_str!("crds/readwritelock.yaml")),
];
/// So many differences are named.
const NAMED: usize = 5;

/// What the API server says of them.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// What it serves, by discovery: everybody may ask for that.
    pub(super) served: Look<APIResourceList>,
    /// In the order of [`KINDS`].
    pub(super) definitions: Vec<Look<CustomResourceDefinition>>,
}

impl Seen {
    /// Whether this one is served, as far as can be told.
    pub(super) fn serves(&self, plural: &str) -> bool {
        self.served.as_ref().is_ok_and(|list| list.resources.iter().any(|resource| resource.name == plural))
    }

    /// Whether any is.
    pub(super) fn serves_any(&self) -> bool {
        KINDS.iter().any(|(plural, ..)| self.serves(plural))
    }
}

pub(super) async fn look(client: &Client) -> Seen {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let names = KINDS.map(|(plural, ..)| format!("{plural}.leasehold.dev"));
    let served = ask(client.list_api_group_resources(GROUP_VERSION));
    let definitions = join_all(names.iter().map(|name| ask(api.get(name))));
    let (served, definitions) = tokio::join!(served, definitions);
    Seen { served, definitions }
}

pub(super) fn judge(site: &Site, seen: &Seen) -> Vec<Finding> {
    if let Err(miss @ (Miss::Forbidden(_) | Miss::Rejected(_) | Miss::Failed(_))) = &seen.served {
        return vec![miss.finding(CHECK, Object::new("API group", "leasehold.dev"))];
    }
    if !seen.serves_any() && seen.definitions.iter().all(|definition| !definition.is_ok()) {
        let says = "its resources are not defined: locks work without them, but there is no DistributedLock, Semaphore or \
                    ReadWriteLock, no status, and no policy of theirs";
        return vec![
            Finding::new(CHECK, Verdict::Note, Object::new("API group", "leasehold.dev"), says)
                .fix("apply the definitions if you want the resources")
                .command(site.kubectl(None, &["apply", "-k", "crds"])),
        ];
    }
    KINDS
        .iter()
        .zip(&seen.definitions)
        .map(|((plural, _, ours), definition)| {
            let object = Object::new("CustomResourceDefinition", format!("{plural}.leasehold.dev"));
            of_one(site, object, seen.serves(plural), definition, ours)
        })
        .collect()
}

fn of_one(site: &Site, object: Object, served: bool, seen: &Look<CustomResourceDefinition>, ours: &str) -> Finding {
    let bad = |verdict, object, says: String| {
        Finding::new(CHECK, verdict, object, says)
            .fix("apply the definitions of this release")
            .command(site.kubectl(None, &["apply", "-k", "crds"]))
    };
    let theirs = match seen {
        Ok(definition) => definition,
        Err(Miss::Absent) => {
            return bad(Verdict::Failed, object, "it is missing, while others of its group are there".to_owned());
        }
        Err(_) if !served => return bad(Verdict::Failed, object, format!("{GROUP_VERSION} of it is not served")),
        Err(miss) => {
            let mut finding = miss.finding(CHECK, object);
            finding.says = format!("{GROUP_VERSION} of it is served; {}", finding.says);
            return finding;
        }
    };
    let name = object.name.clone();
    let conditions = theirs.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let established = conditions.clone().any(|one| one.type_ == "Established" && one.status == "True");
    if !established {
        let refused = conditions.filter(|one| one.status == "False").filter_map(|one| one.message.as_deref());
        let why = refused.collect::<Vec<_>>().join("; ");
        let why = if why.is_empty() { "its conditions do not say why".to_owned() } else { why };
        return Finding::new(CHECK, Verdict::Failed, object, format!("it is not established: {why}"))
            .fix("see what its conditions say")
            .command(site.kubectl(None, &["describe", "crd", &name]));
    }
    let version = theirs.spec.versions.iter().find(|version| version.name == VERSION);
    let Some(version) = version.filter(|version| version.served && served) else {
        return bad(Verdict::Failed, object, format!("{GROUP_VERSION} of it is not served"));
    };
    let Ok(ours) = serde_yaml_ng::from_str::<CustomResourceDefinition>(ours) else {
        return Finding::new(
            CHECK,
            Verdict::Failed,
            object,
            "this program was built with a definition that it cannot read",
        );
    };
    let Some(expected) = ours.spec.versions.iter().find(|version| version.name == VERSION) else {
        return Finding::new(
            CHECK,
            Verdict::Failed,
            object,
            "this program was built with a definition of another version",
        );
    };
    let Differences { lacks, has, otherwise } = Differences::between(version, expected);
    match (&lacks[..], &has[..], &otherwise[..]) {
        ([], [], []) => Finding::ok(CHECK, object, format!("{GROUP_VERSION} is served, and is that of this release")),
        ([], has, []) => {
            let says = format!("it has what this release does not know, and so is newer: {}", some(has));
            Finding::new(CHECK, Verdict::Note, object, says).fix("upgrade this program, and clients as old as it is")
        }
        (lacks, has, otherwise) => {
            let parts = [("it lacks", lacks), ("it has besides", has), ("it says otherwise of", otherwise)];
            let parts = parts.iter().filter(|(_, paths)| !paths.is_empty());
            let parts = parts.map(|(what, paths)| format!("{what} {}", some(paths))).collect::<Vec<_>>();
            bad(Verdict::Warning, object, format!("it is not that of this release: {}", parts.join("; ")))
        }
    }
}

/// The first of them, and how many more there are.
fn some(paths: &[String]) -> String {
    let more = paths.len().saturating_sub(NAMED);
    let first = paths[..paths.len() - more].iter().map(|path| short(path)).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// In what a definition differs from another: paths of what decides about objects, or is shown of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Differences {
    lacks: Vec<String>,
    has: Vec<String>,
    otherwise: Vec<String>,
}

impl Differences {
    fn between(theirs: &CustomResourceDefinitionVersion, ours: &CustomResourceDefinitionVersion) -> Self {
        let mut all = Self::default();
        let schema = |version: &CustomResourceDefinitionVersion| {
            let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            serde_json::to_value(schema).unwrap_or_default()
        };
        all.compare("", &schema(theirs), &schema(ours));
        let subresources = |version: &CustomResourceDefinitionVersion| {
            serde_json::to_value(version.subresources.as_ref()).unwrap_or_default()
        };
        all.compare("subresources", &subresources(theirs), &subresources(ours));
        let columns = |version: &CustomResourceDefinitionVersion| -> BTreeSet<String> {
            let columns = version.additional_printer_columns.iter().flatten();
            columns.map(|column| format!("column {} ({})", column.name, column.json_path)).collect()
        };
        let (theirs, ours) = (columns(theirs), columns(ours));
        all.lacks.extend(ours.difference(&theirs).cloned());
        all.has.extend(theirs.difference(&ours).cloned());
        all
    }

    fn compare(&mut self, path: &str, theirs: &Value, ours: &Value) {
        let (Value::Object(theirs), Value::Object(ours)) = (theirs, ours) else {
            if theirs != ours {
                self.otherwise.push(path.to_owned());
            }
            return;
        };
        let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        // Descriptions are for people.
        for key in keys.into_iter().filter(|key| *key != "description" || path.ends_with("properties")) {
            let below = step(path, key);
            match (theirs.get(key), ours.get(key)) {
                (Some(theirs), Some(ours)) => self.compare(&below, theirs, ours),
                (None, Some(_)) => self.lacks.push(below),
                (Some(_), None) => self.has.push(below),
                (None, None) => {}
            }
        }
    }
}

fn step(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// As people write it: `spec.permits` instead of `properties.spec.properties.permits`.
fn short(path: &str) -> String {
    path.replace(".properties.", ".").trim_start_matches("properties.").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours(of: usize) -> CustomResourceDefinition {
        let mut definition: CustomResourceDefinition = serde_yaml_ng::from_str(KINDS[of].2).unwrap();
        let status = json!({"conditions": [{"type": "Established", "status": "True"}], "acceptedNames": {"kind": "x", "plural": "x"}});
        definition.status = serde_json::from_value(status).unwrap();
        definition
    }

    fn served() -> APIResourceList {
        let resources: Vec<_> = KINDS.iter().map(|(plural, kind, _)| {
            json!({"name": plural, "singularName": "", "namespaced": true, "kind": kind, "verbs": []})
        }).collect();
        serde_json::from_value(json!({"groupVersion": GROUP_VERSION, "resources": resources})).unwrap()
    }

    fn verdict(change: impl FnOnce(&mut Seen)) -> Finding {
        let mut seen = Seen { served: Ok(served()), definitions: (0..3).map(|of| Ok(ours(of))).collect() };
        change(&mut seen);
        let mut found = judge(&Site::example(), &seen);
        found.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        found.remove(0)
    }

    fn change(seen: &mut Seen, change: impl FnOnce(&mut Value)) {
        let definition = seen.definitions[1].as_mut().unwrap();
        let mut value = serde_json::to_value(&*definition).unwrap();
        change(&mut value);
        *definition = serde_json::from_value(value).unwrap();
    }

    #[test]
    fn what_this_release_comes_with_is_in_order() {
        let good = verdict(|_| {});
        assert_eq!(good.verdict, Verdict::Ok, "{good:?}");
        // What is only told to people may differ.
        let reworded = verdict(|seen| {
            change(seen, |value| value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("x"));
        });
        assert_eq!(reworded.verdict, Verdict::Ok, "{reworded:?}");
    }

    #[test]
    fn an_older_one_says_what_it_lacks() {
        let older = verdict(|seen| {
            change(seen, |value| {
                let spec =
                    &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
                spec.as_object_mut().unwrap().remove("lockDelaySeconds").unwrap();
                spec["permits"]["minimum"] = json!(1);
            })
        });
        assert_eq!(older.verdict, Verdict::Warning);
        assert_eq!(
            older.says,
            "it is not that of this release: it lacks spec.lockDelaySeconds; it says otherwise of \
             spec.permits.minimum"
        );
        assert_eq!(older.command.unwrap(), "kubectl apply -k crds --context dev");
    }

    #[test]
    fn a_newer_one_asks_for_a_newer_program() {
        let newer = verdict(|seen| {
            change(seen, |value| {
                let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
                schema["properties"]["spec"]["properties"]["colour"] = json!({"type": "string"});
            })
        });
        assert_eq!((newer.verdict, newer.command), (Verdict::Note, None));
        assert!(newer.says.ends_with("newer: spec.colour"), "{}", newer.says);
    }

    #[test]
    fn what_is_not_there_or_not_served_is_told() {
        let none = verdict(|seen| {
            seen.served = Err(Miss::Absent);
            seen.definitions = vec![Err(Miss::Absent); 3];
        });
        assert_eq!((none.verdict, none.object.kind), (Verdict::Note, "API group"));
        let one = verdict(|seen| seen.definitions[2] = Err(Miss::Absent));
        assert_eq!((one.verdict, &*one.object.name), (Verdict::Failed, "readwritelocks.leasehold.dev"));
        let other = verdict(|seen| change(seen, |value| value["spec"]["versions"][0]["name"] = json!("v1")));
        assert_eq!((other.verdict, &*other.says), (Verdict::Failed, "leasehold.dev/v1alpha1 of it is not served"));
        let not_yet = verdict(|seen| {
            change(seen, |value| {
                value["status"]["conditions"] =
                    json!([{"type": "NamesAccepted", "status": "False", "message": "taken"}]);
            })
        });
        assert_eq!((not_yet.verdict, &*not_yet.says), (Verdict::Failed, "it is not established: taken"));
    }

    #[test]
    fn without_the_right_to_see_them_it_is_told_that_they_are_served() {
        let forbidden = verdict(|seen| seen.definitions = vec![Err(Miss::Forbidden("no".to_owned())); 3]);
        assert_eq!(forbidden.verdict, Verdict::Skipped);
        assert!(
            forbidden.says.starts_with("leasehold.dev/v1alpha1 of it is served; it was not looked at"),
            "{forbidden:?}"
        );
    }
}
