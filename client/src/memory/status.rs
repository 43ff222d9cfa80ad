//! The answers that are not Leases.

use kube::core::Status;
use kube::core::response::{StatusCause, StatusDetails, StatusSummary, reason};

const GROUP: &str = "coordination.k8s.io";

/// Why a request was not carried out.
pub(super) type Refused = Box<Status>;

fn failure(code: u16, reason: &str, message: String, name: &str) -> Refused {
    let details = StatusDetails {
        name: name.to_owned(),
        group: GROUP.to_owned(),
        kind: "leases".to_owned(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    };
    Box::new(Status {
        status: Some(StatusSummary::Failure),
        code,
        message,
        metadata: None,
        reason: reason.to_owned(),
        details: Some(details),
    })
}

/// 200: a Lease was removed.
pub(super) fn removed(name: &str, uid: Option<&str>) -> Refused {
    let mut status = failure(200, "", String::new(), name);
    status.status = Some(StatusSummary::Success);
    if let (Some(details), Some(uid)) = (&mut status.details, uid) {
        uid.clone_into(&mut details.uid);
    }
    status
}

pub(super) fn bad_request(message: impl Into<String>) -> Refused {
    failure(400, reason::BAD_REQUEST, message.into(), "")
}

pub(super) fn not_found(name: &str) -> Refused {
    failure(404, reason::NOT_FOUND, format!("leases.{GROUP} {name:?} not found"), name)
}

pub(super) fn no_such_path() -> Refused {
    failure(404, reason::NOT_FOUND, "the server could not find the requested resource".to_owned(), "")
}

pub(super) fn method_not_allowed() -> Refused {
    let message = "the server does not allow this method on the requested resource";
    failure(405, reason::METHOD_NOT_ALLOWED, message.to_owned(), "")
}

pub(super) fn not_acceptable() -> Refused {
    failure(406, reason::NOT_ACCEPTABLE, "only application/json is served, and only whole Leases".to_owned(), "")
}

pub(super) fn already_exists(name: &str) -> Refused {
    failure(409, reason::ALREADY_EXISTS, format!("leases.{GROUP} {name:?} already exists"), name)
}

pub(super) fn conflict(name: &str, why: &str) -> Refused {
    let message = format!("Operation cannot be fulfilled on leases.{GROUP} {name:?}: {why}");
    failure(409, reason::CONFLICT, message, name)
}

/// The resourceVersion asked for is older than what is remembered.
pub(super) fn expired(asked: u64, oldest: u64) -> Refused {
    let mut status = failure(410, reason::EXPIRED, format!("too old resource version: {asked} ({oldest})"), "");
    status.details = None;
    status
}

pub(super) fn too_large(what: &str) -> Refused {
    failure(413, reason::REQUEST_ENTITY_TOO_LARGE, format!("Request entity too large: {what}"), "")
}

pub(super) fn unsupported_media_type() -> Refused {
    failure(415, reason::UNSUPPORTED_MEDIA_TYPE, "the body of the request was in an unknown format".to_owned(), "")
}

/// Fields with what is wrong with them.
pub(super) fn invalid(name: &str, causes: Vec<StatusCause>) -> Refused {
    let texts: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let message = format!("Lease.{GROUP} {name:?} is invalid: {}", texts.join(", "));
    let mut status = failure(422, reason::INVALID, message, name);
    if let Some(details) = &mut status.details {
        details.causes = causes;
    }
    status
}

/// One field with what is wrong with it.
pub(super) fn cause(field: &str, message: impl Into<String>) -> StatusCause {
    StatusCause { reason: "FieldValueInvalid".to_owned(), message: message.into(), field: field.to_owned() }
}

/// A JSON Patch that cannot be applied, or whose `test` fails. It names no fields.
pub(super) fn not_applicable(message: String) -> Refused {
    failure(422, reason::INVALID, message, "")
}

pub(super) fn too_many_requests() -> Refused {
    let message = "Too many requests, please try again later.".to_owned();
    let mut status = failure(429, reason::TOO_MANY_REQUESTS, message, "");
    if let Some(details) = &mut status.details {
        details.retry_after_seconds = 1;
    }
    status
}

/// An error for which the API server has no reason of its own.
pub(super) fn error(message: &str) -> Refused {
    let mut status = failure(500, "", message.to_owned(), "");
    status.details = None;
    status
}

pub(super) fn not_implemented(what: &str) -> Refused {
    failure(501, "NotImplemented", format!("{what} is not simulated"), "")
}

pub(super) fn unavailable() -> Refused {
    let message = "the server is currently unable to handle the request".to_owned();
    failure(503, reason::SERVICE_UNAVAILABLE, message, "")
}

/// The resourceVersion asked for is still to come.
pub(super) fn too_new(asked: u64, current: u64) -> Refused {
    let mut status =
        failure(504, reason::TIMEOUT, format!("Timeout: Too large resource version: {asked}, current: {current}"), "");
    if let Some(details) = &mut status.details {
        details.causes = vec![StatusCause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }];
        details.retry_after_seconds = 1;
    }
    status
}
