//! `kubectl leasehold ui` against a real API server, looked at by a real browser.

mod browser;
mod page;
mod picture;
mod server;
mod support;
