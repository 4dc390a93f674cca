//! Forms with a file in them (RFC 7578), as SDKs upload files.
//!
//! The body is in memory already and bounded, so that parts are slices of it and nothing is copied.

use bytes::Bytes;

/// Most parts of one form.
const PARTS_MAX: usize = 32;

/// One field of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Name of the field.
    pub(super) name: String,
    /// What the file was called, when the field is one.
    pub(super) file_name: Option<String>,
    /// What is in it.
    pub(super) content: Bytes,
}

/// The mark between the parts, from `Content-Type`.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = rest.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    (1..=70).contains(&value.len()).then_some(value)
}

/// The parts of a form; none when it is not one, or broke off.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Option<Vec<Part>> {
    let opening = format!("--{boundary}");
    let between = format!("\r\n--{boundary}");
    let mut at = find(body, opening.as_bytes(), 0)? + opening.len();
    let mut parts = Vec::new();
    loop {
        if body.get(at..at + 2)? == b"--" {
            return Some(parts);
        }
        let head = find(body, b"\r\n", at)? + 2;
        let blank = find(body, b"\r\n\r\n", head.saturating_sub(2))?;
        let content = blank + 4;
        let end = find(body, between.as_bytes(), content.saturating_sub(2))?;
        let headers = std::str::from_utf8(body.get(head..blank.max(head))?).ok()?;
        parts.push(Part {
            name: parameter(headers, "name")?,
            file_name: parameter(headers, "filename"),
            content: body.slice(content.min(end)..end),
        });
        if parts.len() > PARTS_MAX {
            return None;
        }
        at = end + between.len();
    }
}

fn find(body: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let rest = body.get(from..)?;
    let first = *what.first()?;
    let mut at = 0;
    while at + what.len() <= rest.len() {
        let step = rest[at..].iter().position(|byte| *byte == first)?;
        at += step;
        if rest[at..].starts_with(what) {
            return Some(from + at);
        }
        at += 1;
    }
    None
}

/// A parameter of `Content-Disposition`.
fn parameter(headers: &str, name: &str) -> Option<String> {
    let line = headers.lines().find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    line.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] =
        b"--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--B\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n{\"a\":1}\r\n\r\n--b\r\n--B--\r\n";

    #[test]
    fn fields_and_files_are_told_apart() {
        let parts = parts(&Bytes::from_static(FORM), "B").expect("a form");
        assert_eq!((parts[0].name.as_str(), &parts[0].content[..]), ("purpose", &b"batch"[..]));
        assert_eq!(parts[1].file_name.as_deref(), Some("in.jsonl"));
        assert_eq!(&parts[1].content[..], b"{\"a\":1}\r\n\r\n--b");
    }

    #[test]
    fn what_breaks_off_anywhere_is_no_form() {
        for end in 0..FORM.len() - 4 {
            assert_eq!(parts(&Bytes::copy_from_slice(&FORM[..end]), "B"), None, "{end}");
        }
    }

    #[test]
    fn an_empty_file_is_a_file() {
        let form = b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n\r\n--B--";
        let parts = parts(&Bytes::from_static(form), "B").expect("a form");
        assert!(parts[0].content.is_empty());
    }

    #[test]
    fn the_boundary_stands_in_the_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("multipart/form-data; charset=utf-8; Boundary=x"), Some("x"));
        for wrong in ["application/json", "multipart/form-data", "multipart/mixed; boundary=x"] {
            assert_eq!(boundary(wrong), None, "{wrong}");
        }
    }
}
