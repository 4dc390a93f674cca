//! Keys, tokens and passwords.

use std::ops::Range;

use super::{before, runs};

/// Beginnings of tokens that say of themselves what they are, with the least
/// number of characters that follow. From the manuals of those who issue them.
const ISSUED: [(&str, usize); 34] = [
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("ghr_", 30),
    ("github_pat_", 30),
    ("glpat-", 16),
    ("sk-", 16),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("pk_live_", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xapp-", 10),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 30),
    ("ya29.", 20),
    ("hvs.", 20),
    ("hvb.", 20),
    ("tskey-", 10),
    ("npm_", 30),
    ("pypi-", 20),
    ("dckr_pat_", 20),
    ("hf_", 30),
    ("r8_", 30),
    ("gsk_", 30),
    ("SG.", 40),
    // A JSON web token: the base64 of `{"`, twice.
    ("eyJ", 40),
    ("AGE-SECRET-KEY-1", 40),
    ("PVEAPIToken=", 8),
    ("tk_", 20),
];

/// Ends of the names of settings that hold secrets, without their separators.
const SECRET_NAMES: [&str; 18] = [
    "password",
    "passwd",
    "passphrase",
    "passwort",
    "kennwort",
    "wachtwoord",
    "motdepasse",
    "pwd",
    "secret",
    "secretkey",
    "token",
    "apikey",
    "privatekey",
    "accesskey",
    "presharedkey",
    "psk",
    "credential",
    "authkey",
];

/// Values that stand where a secret would, and are none.
const NO_SECRETS: [&str; 22] = [
    "null",
    "none",
    "true",
    "false",
    "undefined",
    "string",
    "str",
    "&str",
    "option",
    "bool",
    "number",
    "bytes",
    "int",
    "char",
    "vec",
    "secret",
    "required",
    "optional",
    "changeme",
    "password",
    "self",
    "empty",
];

/// Where a block of a key says that it is one.
const HEAD_BYTES_MAX: usize = 120;

/// Longer than any token or password: whoever writes thousands of beginnings of one costs no more
/// than that for each.
const SECRET_BYTES_MAX: usize = 4_096;

/// Characters of the value of a setting at least.
const VALUE_CHARS_MIN: usize = 4;

pub(super) fn find(text: &str, found: &mut impl FnMut(Range<usize>)) {
    key_blocks(text, found);
    issued(text, found);
    in_urls(text, found);
    in_headers(text, found);
    settings(text, found);
    random(text, found);
}

/// The first bytes of a text, whole characters only.
fn head(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// Private keys in PEM and OpenSSH form; one whose end is missing reaches to the
/// end of the text.
fn key_blocks(text: &str, found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for (start, _) in text.match_indices("-----BEGIN ") {
        if start < done {
            continue;
        }
        let block = text.get(start..).unwrap_or_default();
        if !head(block, HEAD_BYTES_MAX).contains("PRIVATE KEY") {
            continue;
        }
        let end = block.find("-----END ").map(|at| {
            let tail = block.get(at + 9..).unwrap_or_default();
            tail.find("-----").map_or(block.len(), |close| at + 9 + close + 5)
        });
        done = start + end.unwrap_or(block.len());
        found(start..done);
    }
}

fn issued(text: &str, found: &mut impl FnMut(Range<usize>)) {
    let in_token = |c: char| c.is_ascii_alphanumeric() || "_-.=!@+/".contains(c);
    for (prefix, rest_min) in ISSUED {
        for (start, _) in text.match_indices(prefix) {
            let is_inside = before(text, start).is_some_and(|c| c.is_ascii_alphanumeric());
            let rest = text.get(start + prefix.len()..).unwrap_or_default();
            let rest = head(rest, SECRET_BYTES_MAX);
            let length = rest.len() - rest.trim_start_matches(in_token).len();
            let body = rest.get(..length).unwrap_or_default().trim_end_matches(['.', '-', '/']);
            if !is_inside && body.len() >= rest_min && body.contains(|c: char| c.is_ascii_digit()) {
                found(start..start + prefix.len() + body.len());
            }
        }
    }
}

/// `scheme://user:password@host`.
fn in_urls(text: &str, found: &mut impl FnMut(Range<usize>)) {
    for (at, separator) in text.match_indices("://") {
        let start = at + separator.len();
        let rest = text.get(start..).unwrap_or_default();
        let ends = |c: char| c.is_whitespace() || "/\"'<>`?#".contains(c);
        let authority = rest.split(ends).next().unwrap_or_default();
        let Some((user, _host)) = authority.rsplit_once('@') else { continue };
        if let Some((name, password)) = user.split_once(':').filter(|(_, word)| !word.is_empty()) {
            let start = start + name.len() + 1;
            found(start..start + password.len());
        }
    }
}

/// `Bearer …` and `Basic …`.
fn in_headers(text: &str, found: &mut impl FnMut(Range<usize>)) {
    let lower = text.to_ascii_lowercase();
    for word in ["bearer ", "basic "] {
        for (at, _) in lower.match_indices(word) {
            let start = at + word.len();
            let rest = text.get(start..).unwrap_or_default();
            let in_value = |c: char| c.is_ascii_alphanumeric() || "_-.=+/~".contains(c);
            let length = rest.len() - rest.trim_start_matches(in_value).len();
            let value = rest.get(..length).unwrap_or_default().trim_end_matches('.');
            if value.len() >= 8 && value.contains(|c: char| c.is_ascii_digit() || c == '=') {
                found(start..start + value.len());
            }
        }
    }
}

/// `password = …`, `"api_key": "…"`, `--token …`, `the password is …`.
fn settings(text: &str, found: &mut impl FnMut(Range<usize>)) {
    for run in runs(text, |byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        let name = text.get(run.clone()).unwrap_or_default();
        let bare: String =
            name.chars().filter(|c| c.is_ascii_alphabetic()).flat_map(char::to_lowercase).collect();
        if !SECRET_NAMES.iter().any(|end| bare.ends_with(end)) {
            continue;
        }
        let rest = text.get(run.end..).unwrap_or_default();
        if let Some(value) = value_of(rest, name.starts_with("--")) {
            let start = run.end + value.start;
            found(start..run.end + value.end);
        }
    }
}

/// The value that follows the name of a setting, within what follows the name.
fn value_of(rest: &str, is_option: bool) -> Option<Range<usize>> {
    let skip = |text: &str, at: usize, fits: &dyn Fn(char) -> bool| {
        let rest = text.get(at..).unwrap_or_default();
        at + rest.len() - rest.trim_start_matches(fits).len()
    };
    let space = |c: char| c == ' ' || c == '\t';
    let quote = |c: char| "\"'`\\*".contains(c);
    let at = skip(rest, 0, &quote);
    let at = skip(rest, at, &space);
    let tail = rest.get(at..)?;
    let is_said = tail.starts_with("is ") || tail.starts_with("ist ");
    let at = if tail.starts_with(['=', ':']) {
        skip(rest, at, &|c| "=:>".contains(c))
    } else if is_said {
        skip(rest, at, &char::is_alphabetic)
    } else if is_option && at > 0 {
        at
    } else {
        return None;
    };
    let at = skip(rest, at, &space);
    let opened = skip(rest, at, &quote);
    let value = rest.get(opened..)?;
    let ends = |c: char| match opened > at {
        true => "\"'`\n\\".contains(c),
        false => c.is_whitespace() || "\"'`,;)]}".contains(c),
    };
    let value = head(value, SECRET_BYTES_MAX).split(ends).next().unwrap_or_default();
    let is_random = value.contains(|c: char| !c.is_alphabetic());
    let counts = (!is_said || is_random) && is_value(value);
    counts.then(|| opened..opened + value.len())
}

fn is_value(value: &str) -> bool {
    let lower = value.trim_end_matches(['.', '?', '!']).to_lowercase();
    let hidden = |c: char| "*x•.-_".contains(c);
    let is_named_elsewhere = lower.starts_with(['$', '<', '{', '%', '(', '[', '&'])
        || lower.contains("::")
        || lower.contains('(')
        || lower.contains('<');
    value.chars().count() >= VALUE_CHARS_MIN
        && !lower.chars().all(hidden)
        && !is_named_elsewhere
        && !NO_SECRETS.contains(&lower.as_str())
}

/// What no person has typed: as long as a key and as mixed as chance makes it.
fn random(text: &str, found: &mut impl FnMut(Range<usize>)) {
    for run in runs(text, |byte| byte.is_ascii_alphanumeric() || b"+/_-".contains(&byte)) {
        let whole = text.get(run.clone()).unwrap_or_default();
        if is_uuid(whole) {
            continue;
        }
        // A key in base64 may hold slashes, and so does a path, whose parts are looked at one by one.
        if is_random(whole) {
            let padding = text.get(run.end..).unwrap_or_default();
            let padding = padding.len() - padding.trim_start_matches('=').len();
            found(run.start..run.end + padding.min(2));
            continue;
        }
        let mut start = run.start;
        for part in whole.split('/') {
            if is_random(part) && !is_uuid(part) {
                found(start..start + part.len());
            }
            start += part.len() + 1;
        }
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Whether letters, digits and cases change as often as in the encodings of random
/// bytes: over half of the time there, under a quarter in words and names.
fn is_random(text: &str) -> bool {
    const MIXED_CHARS_MIN: usize = 20;
    const HEX_CHARS_MIN: usize = 32;
    let (mut digits, mut lower, mut upper, mut changes) = (0_usize, 0_usize, 0_usize, 0_usize);
    let mut previous = None;
    for byte in text.bytes() {
        let kind = match byte {
            b'0'..=b'9' => {
                digits += 1;
                0
            }
            b'a'..=b'z' => {
                lower += 1;
                1
            }
            b'A'..=b'Z' => {
                upper += 1;
                2
            }
            _ => 3,
        };
        changes += usize::from(previous.is_some_and(|previous| previous != kind));
        previous = Some(kind);
    }
    let is_mixed = digits > 0 && lower > 0 && upper > 0 && changes * 3 >= text.len();
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && digits >= 4
        && lower.max(upper) >= 4
        && changes * 5 >= text.len();
    (text.len() >= MIXED_CHARS_MIN && is_mixed) || (text.len() >= HEX_CHARS_MIN && is_hex)
}
