//! Which namespaces the operator works in.

use std::fmt;

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

/// One namespace, or all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Option<String>);

impl Scope {
    /// The namespaces named, each once, or all if none is.
    pub(crate) fn list(mut namespaces: Vec<String>) -> Vec<Self> {
        namespaces.sort();
        namespaces.dedup();
        if namespaces.is_empty() {
            vec![Self(None)]
        } else {
            namespaces.into_iter().map(|name| Self(Some(name))).collect()
        }
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub(crate) fn includes(&self, namespace: &str) -> bool {
        self.0.as_ref().is_none_or(|name| name == namespace)
    }

    pub(crate) fn api<K>(&self, client: Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.0 {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("all namespaces"))
    }
}
