//! Installing the operator: what `kubectl apply -k` and Helm make of this repository, on a real API server.

mod apply;
mod chart;
mod flow;
mod helm;
mod image;
mod monitoring;
mod support;
