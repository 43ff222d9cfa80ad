//! The command line of the web page.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;

/// Where the page is, if nothing is said.
pub(crate) const PORT: u16 = 8532;

pub(super) const ABOUT: &str = "\
Show locks, semaphores and read-write locks on a web page

The page is served on this machine only, and only shows: nothing can be changed by it. It shows who holds what, who waits, \
who held it since this program was started, and who waits for whom. It follows what happens by one watch, however many \
look at it. Standard output has its address, alone on a line. Ctrl-C ends it.

Whoever can open a connection to the port sees what you may see of Leases. There is no password: mind who else has an \
account on this machine, and what --address lets in.";

pub(super) const EXAMPLES: &str = "\
Examples:
  # All namespaces, in the browser
  kubectl leasehold ui -A --open

  # At any free port
  kubectl leasehold ui --port 0";

#[derive(Debug, Args)]
pub(crate) struct UiArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Where to serve it; 0 means any port that is free
    #[arg(long, value_name = "N", default_value_t = PORT)]
    pub(crate) port: u16,
    /// Serve at this address, and so to other machines where it is no address of this machine alone
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) address: IpAddr,
    /// Open it in a browser
    #[arg(long)]
    pub(crate) open: bool,
}
