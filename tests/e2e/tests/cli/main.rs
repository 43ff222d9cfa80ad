//! `kubectl leasehold` as a program, against a real API server.

mod breaking;
mod elect;
mod examples;
mod graph;
mod handles;
mod kinds;
mod loss;
mod processes;
mod read;
mod run;
mod support;
mod terminal;
mod top;
