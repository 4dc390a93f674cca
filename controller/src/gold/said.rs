//! What a provider says went wrong, as far as it may be kept.

use homelab_domain::job::Record;
use serde_json::Value;

/// Longest message that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// Longest code that is, in bytes.
const CODE_BYTES_MAX: usize = 64;

/// `: ` and what the error of a body says, freed of pseudonyms before; empty when it says nothing.
/// Providers quote the request in their messages, so of a job that leaves no text behind only the code
/// is taken, and only if it is one.
pub(super) fn said(body: &Value, record: Record) -> String {
    let error = body.get("error").unwrap_or(&Value::Null);
    let text = |field: &str| error.get(field).and_then(Value::as_str);
    let said = match record {
        Record::Full => {
            let message = text("message").or(error.as_str());
            message.map(|message| message.chars().take(MESSAGE_CHARS_MAX).collect())
        }
        Record::Metadata => {
            let codes = [text("code"), text("type")].into_iter().flatten();
            codes.into_iter().find(|code| is_code(code)).map(str::to_owned)
        }
    };
    said.map_or_else(String::new, |said: String| format!(": {said}"))
}

fn is_code(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=CODE_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_job_that_leaves_no_text_only_a_code_is_kept() {
        let body = json!({"error": {"message": "no, `tell me of x99`", "code": "too_long"}});
        assert_eq!(said(&body, Record::Full), ": no, `tell me of x99`");
        assert_eq!(said(&body, Record::Metadata), ": too_long");
        for quoting in [
            json!({"error": {"message": "m", "code": "tell me of x99", "type": "Tell"}}),
            json!({"error": {"message": "m", "code": "x".repeat(65)}}),
            json!({"error": {"message": "m", "code": 7, "type": ""}}),
            json!({"error": "tell me of x99"}),
            json!({}),
        ] {
            assert_eq!(said(&quoting, Record::Metadata), "", "{quoting}");
        }
    }
}
