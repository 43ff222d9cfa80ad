//! The client against a real API server, with real processes where they are killed or stopped.
//!
//! | guarantee | the tests that fail without it |
//! | --- | --- |
//! | mutual exclusion | `exclusion::none_of_twenty_processes_loses_an_increment`, `loss::a_stopped_holder_does_no_work_after_it_is_continued` |
//! | a guard knows when to stop | `loss::a_stopped_holder_does_no_work_after_it_is_continued`, `loss::without_the_api_server_a_guard_is_lost_before_its_session_can_pass` |
//! | fencing token | `exclusion::tokens_grow_over_deletion_and_re_creation` |
//! | fences are enforced | `fencing::a_stopped_holder_cannot_write_when_it_is_continued` |
//! | liveness | `loss::a_killed_holder_and_killed_waiters_are_passed_over_together`, `queue::a_waiter_with_a_deaf_watch_gets_the_lock` |
//! | fair | `queue::waiters_are_served_in_the_order_of_their_joins` |
//! | nothing is lost | `faults::*` in the client crate |
//! | an acquire never returns a stale guard | `faults::a_grant_that_arrives_too_late_is_not_handed_out` in the client crate |

mod apart;
mod beside;
mod conditions;
mod conformance;
mod election;
mod exclusion;
mod fencing;
mod finalizers;
mod fixed;
mod foreign;
mod lending;
mod loss;
mod names;
mod outage;
mod policy;
mod queue;
#[path = "../../../../client/tests/recorder/mod.rs"]
mod recorder;
mod shared;
mod support;
mod telemetry;
mod terms;
