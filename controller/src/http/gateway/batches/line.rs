//! One line of a batch: what comes in, and what comes out.

use std::collections::HashSet;

use bytes::Bytes;
use homelab_domain::ids::{BatchId, JobId};
use homelab_store::BatchLine;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ENDPOINT;
use crate::http::gateway::{ask, error::ApiError, request};

/// Lines of one batch.
const LINES_MAX: usize = 10_000;

/// Longest `custom_id`, in bytes.
const CUSTOM_ID_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
struct Wire<'a> {
    custom_id: String,
    method: String,
    url: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Reads the lines of a file. All of it must be right: half a batch helps nobody.
///
/// # Errors
/// 400: which line is wrong, and in what.
pub(in crate::http::gateway) fn read(content: &[u8]) -> Result<Vec<BatchLine>, ApiError> {
    let wrong = |number: usize, what: &str| {
        ApiError::invalid(Some("input_file_id"), format!("Line {number}: {what}."))
    };
    let mut lines = Vec::new();
    let mut seen = HashSet::new();
    for (index, text) in content.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        // The parser's own words would repeat what stands there.
        let wire: Wire<'_> = serde_json::from_slice(text).map_err(|_| {
            wrong(number, "it is not `{\"custom_id\", \"method\", \"url\", \"body\"}` as JSON")
        })?;
        if wire.method != "POST" || wire.url != ENDPOINT {
            return Err(wrong(number, "`method` must be `POST` and `url` `/v1/chat/completions`"));
        }
        if wire.custom_id.is_empty() || wire.custom_id.len() > CUSTOM_ID_BYTES_MAX {
            return Err(wrong(number, "`custom_id` is 1 to 512 bytes"));
        }
        if !seen.insert(wire.custom_id.clone()) {
            return Err(wrong(number, "its `custom_id` stands twice"));
        }
        let body = wire.body.get().as_bytes();
        request::read(body)
            .map_err(|error| wrong(number, error.message().trim_end_matches('.')))?;
        if lines.len() >= LINES_MAX {
            return Err(wrong(number, "a batch has at most 10,000 lines"));
        }
        let line = u32::try_from(number).unwrap_or(u32::MAX);
        lines.push(BatchLine { line, custom_id: wire.custom_id, body: body.to_vec() });
    }
    if lines.is_empty() {
        return Err(ApiError::invalid(Some("input_file_id"), "The file has no lines."));
    }
    Ok(lines)
}

/// The job of a line: always the same one, so that no line is asked twice, whatever is killed when.
pub(super) fn job_of(batch: BatchId, line: u32) -> JobId {
    let (batch, line) = (batch.uuid(), line.to_be_bytes());
    let parts = [b"homelab batch line".as_slice(), batch.as_bytes(), &line];
    ask::derived_id(&parts).into()
}

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<Dropped<'a>>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: String,
    body: &'a RawValue,
}

#[derive(Serialize)]
struct Dropped<'a> {
    code: &'a str,
    message: &'a str,
}

/// A line of the output file, or of the error file: what the same request would have been answered.
pub(super) fn answered(job: JobId, custom_id: &str, status: u16, body: &Bytes) -> Vec<u8> {
    let body = std::str::from_utf8(body).unwrap_or("null");
    let body = serde_json::from_str(body).unwrap_or(RawValue::NULL);
    let response = Response { status_code: status, request_id: job.to_string(), body };
    row(job, custom_id, Some(response), None)
}

/// A line of the error file: it was not asked at all.
pub(super) fn dropped(job: JobId, custom_id: &str, code: &str, message: &str) -> Vec<u8> {
    row(job, custom_id, None, Some(Dropped { code, message }))
}

fn row(
    job: JobId,
    custom_id: &str,
    response: Option<Response<'_>>,
    error: Option<Dropped<'_>>,
) -> Vec<u8> {
    let id = format!("batch_req_{}", job.uuid().simple());
    serde_json::to_vec(&Row { id, custom_id, response, error }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn line(custom_id: &str) -> String {
        json!({"custom_id": custom_id, "method": "POST", "url": ENDPOINT,
            "body": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}})
        .to_string()
    }

    #[test]
    fn lines_keep_their_numbers_and_their_bodies() {
        let file = format!("{}\r\n\n{}\n", line("a"), line("b"));
        let lines = read(file.as_bytes()).expect("is valid");
        let numbers: Vec<_> =
            lines.iter().map(|line| (line.line, line.custom_id.as_str())).collect();
        assert_eq!(numbers, [(1, "a"), (3, "b")]);
        assert_eq!(serde_json::from_slice::<Value>(&lines[0].body).expect("JSON")["model"], "m");
    }

    #[test]
    fn a_wrong_line_is_named_and_not_repeated() {
        let secret = line("x").replace("\"Hi\"", "\"geheim\", geheim");
        let no_messages = json!({"custom_id": "x", "method": "POST", "url": ENDPOINT, "body": {}});
        for (file, part) in [
            (String::new(), "no lines"),
            (format!("{}\n{secret}", line("a")), "Line 2"),
            (format!("{}\n{}", line("a"), line("a")), "twice"),
            (line("a").replace("POST", "GET"), "method"),
            (line("a").replace("chat/", ""), "url"),
            (line(""), "custom_id"),
            (no_messages.to_string(), "messages"),
        ] {
            let error = read(file.as_bytes()).expect_err(part);
            assert!(error.message().contains(part), "{part}: {}", error.message());
            assert!(!error.message().contains("geheim"), "{}", error.message());
        }
    }

    #[test]
    fn a_line_has_one_job_for_ever() {
        let batch = Uuid::from_u128(5).into();
        assert_eq!(job_of(batch, 7), job_of(batch, 7));
        assert_ne!(job_of(batch, 7), job_of(batch, 8));
        assert_ne!(job_of(batch, 7), job_of(Uuid::from_u128(6).into(), 7));
    }

    #[test]
    fn a_result_carries_the_answer_as_it_is() {
        let job = Uuid::from_u128(5).into();
        let row = answered(job, "a", 200, &Bytes::from_static(br#"{"x_new": 1.50}"#));
        assert!(std::str::from_utf8(&row).expect("text").contains(r#"{"x_new": 1.50}"#));
        let row: Value =
            serde_json::from_slice(&dropped(job, "a", "batch_expired", "late")).expect("JSON");
        assert_eq!(
            (&row["response"], &row["error"]["code"]),
            (&Value::Null, &json!("batch_expired"))
        );
    }
}
