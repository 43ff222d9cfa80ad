//! `kubectl leasehold` as a program, against a real API server.

mod loss;
mod read;
mod run;
mod support;
mod terminal;
