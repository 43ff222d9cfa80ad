//! `kubectl leasehold` as a program, against a real API server.

mod breaking;
mod loss;
mod read;
mod run;
mod support;
mod terminal;
