//! `kubectl leasehold` as a program, against a real API server.

mod breaking;
mod doctor;
mod elect;
mod examples;
mod graph;
mod handles;
mod kinds;
mod loss;
mod manifests;
mod mixed;
mod outage;
mod processes;
mod proxy;
mod read;
mod run;
mod signals;
mod support;
mod terminal;
