//! Whether a value looks like a secret, by its name and by itself.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Like nothing secret.
    Plain,
    /// Like a secret, without doubt.
    Secret,
    /// Like something that may be one: a person must say.
    Suspect(&'static str),
}

/// Parts of names, in lower case without `-` and `_`, behind which stand secrets.
const NAME_PARTS: [&str; 24] = [
    "password",
    "passwd",
    "passphrase",
    "passwort",
    "secret",
    "psk",
    "privkey",
    "privatekey",
    "apikey",
    "token",
    "credential",
    "presharedkey",
    "sharedkey",
    "authkey",
    "authpass",
    "setupkey",
    "otpseed",
    "hmac",
    "p12",
    "licensekey",
    "licencekey",
    "enrollkey",
    "domainkey",
    "encryptionkey",
];

/// Ends of such names.
const NAME_ENDS: [&str; 6] = ["pwd", "pass", "prv", "pw", "pin", "community"];

/// Names that say nothing by themselves: the one above them counts.
const GENERIC_NAMES: [&str; 6] = ["value", "item", "key", "data", "content", "text"];

/// Values that are switches, not secrets.
const SWITCHES: [&str; 11] =
    ["0", "1", "yes", "no", "on", "off", "true", "false", "enabled", "disabled", "none"];

/// Marks of private keys (RFC 7468 and what OpenVPN, PuTTY and GnuPG write).
const PRIVATE: [&str; 4] =
    ["PRIVATE KEY", "OpenVPN Static key", "PuTTY-User-Key-File", "OpenVPN tls-crypt"];

/// Marks of PEM that is meant to be shown.
const PUBLIC_PEM: [&str; 4] = [
    "-----BEGIN CERTIFICATE",
    "-----BEGIN X509 CRL",
    "-----BEGIN PUBLIC KEY",
    "-----BEGIN NEW CERTIFICATE REQUEST",
];

/// Marks of password hashes (crypt(5), RFC 2307 and their likes).
const HASHES: [&str; 11] =
    ["$1$", "$2a$", "$2b$", "$2x$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$argon2", "$apr1$"];

/// The least length of what chance may have made.
const RANDOM_CHARS_MIN: usize = 20;

/// Bits a character from which on a word is no word.
const RANDOM_BITS_MIN: f64 = 3.2;

/// Base 64 as people and programs write it, padded or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whether the name of an element says that a secret stands there.
#[must_use]
pub fn is_secret_name(path: &[&str]) -> bool {
    let Some((leaf, above)) = path.split_last() else { return false };
    let generic = GENERIC_NAMES.contains(&leaf.to_lowercase().as_str());
    let named = if generic { above.last().unwrap_or(leaf) } else { leaf };
    says_secret(named)
}

/// Whether the value can only be a switch.
#[must_use]
pub fn is_switch(value: &str) -> bool {
    SWITCHES.contains(&value.trim().to_lowercase().as_str())
}

/// A private key, in PEM or in base 64 around it. Nothing makes that public.
#[must_use]
pub fn is_private_key(value: &str) -> bool {
    let is_one = |text: &str| PRIVATE.iter().any(|mark| text.contains(mark));
    is_one(value) || decoded(value).is_some_and(|text| is_one(&text))
}

/// What a value looks like by itself.
#[must_use]
pub fn look(value: &str) -> Look {
    if is_private_key(value) || is_hash(value) {
        return Look::Secret;
    }
    if is_public_pem(value) {
        return Look::Plain;
    }
    match decoded(value) {
        Some(text) if is_public_pem(&text) => Look::Plain,
        Some(text) => match (look_inside(value), look_inside(&text)) {
            (Look::Plain, inner) => inner,
            (outer, _) => outer,
        },
        None => look_inside(value),
    }
}

/// Base 64 of text, decoded: several fields of OPNsense hide text that way.
#[must_use]
pub fn decoded(value: &str) -> Option<String> {
    let joined: String = value.split_whitespace().collect();
    if joined.len() < 8 {
        return None;
    }
    let text = String::from_utf8(LENIENT.decode(joined).ok()?).ok()?;
    text.chars().all(|c| !c.is_control() || c.is_whitespace()).then_some(text)
}

fn look_inside(value: &str) -> Look {
    if is_hash(value) {
        return Look::Secret;
    }
    if has_setting(value) {
        return Look::Suspect("names a password or key and gives it");
    }
    let random = value.split(|c: char| !is_token(c)).any(is_random) || is_random_base64(value);
    if random { Look::Suspect("has a long random word") } else { Look::Plain }
}

fn says_secret(name: &str) -> bool {
    let name: String =
        name.to_lowercase().chars().filter(|c| !matches!(c, '-' | '_' | '.')).collect();
    NAME_PARTS.iter().any(|part| name.contains(part))
        || NAME_ENDS.iter().any(|end| name.ends_with(end))
}

fn is_hash(value: &str) -> bool {
    let scheme = |value: &str| {
        // `{SSHA}`, `{CRYPT}` and so on, as LDAP writes them.
        value.strip_prefix('{').and_then(|rest| rest.split_once('}')).is_some_and(|(name, hash)| {
            !hash.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        })
    };
    HASHES.iter().any(|mark| value.contains(mark)) || scheme(value.trim())
}

fn is_public_pem(value: &str) -> bool {
    let text = value.trim_start();
    PUBLIC_PEM.iter().any(|mark| text.starts_with(mark))
        && text.matches("-----BEGIN ").count() == text.matches("-----END ").count()
        && pem_only(text)
}

/// Nothing but armour and base 64.
fn pem_only(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| {
        let armour = line.starts_with("-----") && line.ends_with("-----");
        armour || line.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c))
    })
}

/// `password = hunter2` and its likes in free text, such as options for a daemon.
fn has_setting(value: &str) -> bool {
    value.lines().any(|line| {
        let mut words = line.split_whitespace();
        let pair = (words.next(), words.next(), words.next());
        if let (Some(name), Some(_), None) = pair
            && says_secret(name.trim_end_matches([':', '=']))
        {
            return true;
        }
        line.match_indices(['=', ':']).any(|(at, _)| {
            let (name, value) = (line.get(..at).unwrap_or(""), line.get(at + 1..).unwrap_or(""));
            let name = name.trim_end().rsplit(|c: char| !is_token(c)).next().unwrap_or("");
            !name.is_empty() && says_secret(name) && !value.trim().is_empty()
        })
    })
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_')
}

fn is_random(word: &str) -> bool {
    if word.len() < RANDOM_CHARS_MIN || is_uuid(word) || is_wordy(word) {
        return false;
    }
    entropy(word) >= RANDOM_BITS_MIN
}

/// Padded base 64 with slashes, which the split into words takes apart. A path of
/// files is lower case for the most part.
fn is_random_base64(value: &str) -> bool {
    let value = value.trim();
    let alphabet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let has = |class: fn(&char) -> bool| value.chars().any(|c| class(&c));
    value.len() >= 24
        && value.len().is_multiple_of(4)
        && value.chars().all(alphabet)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_digit)
        && entropy(value) >= RANDOM_BITS_MIN
}

fn is_uuid(word: &str) -> bool {
    let lengths: Vec<usize> = word.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && word.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// Joined words and numbers: `page-firewall-rules`, `TLS_AES_256_GCM_SHA384`, `camelCaseName`.
fn is_wordy(word: &str) -> bool {
    let pieces = word.split(['-', '_', '+']).filter(|piece| !piece.is_empty());
    let mut mixed = 0;
    for piece in pieces {
        let digits = piece.chars().filter(char::is_ascii_digit).count();
        if digits == piece.len() {
            continue;
        }
        if digits > 0 {
            if piece.len() > 8 {
                return false;
            }
            // `SHA384` is a word with a number, `GH78I` is not.
            let name = piece.trim_end_matches(|c: char| c.is_ascii_digit());
            mixed += if name.chars().any(|c| c.is_ascii_digit()) { 4 } else { 3 };
        } else if rises(piece) * 5 >= piece.len() && piece.len() > 8 {
            return false;
        }
    }
    mixed < 12
}

/// How often a capital follows a small letter.
fn rises(piece: &str) -> usize {
    let bytes = piece.as_bytes();
    bytes
        .windows(2)
        .filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
        .count()
}

/// Shannon entropy, in bits a character.
fn entropy(word: &str) -> f64 {
    let mut counts = [0_u32; 256];
    word.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = f64::from(u32::try_from(word.len()).unwrap_or(u32::MAX));
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / length)
        .map(|share| -share * share.log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_values_look_plain() {
        for value in [
            "",
            "1",
            "lan",
            "192.168.0.1/24",
            "fd00:1234:5678:9abc:def0:1234:5678:9abc",
            "0.opnsense.pool.ntp.org 1.opnsense.pool.ntp.org",
            "page-diagnostics-configurationhistory",
            "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
            "Default allow LAN to any rule",
            "00:11:22:33:44:55",
            "4f1f5c3e-8f0a-4a52-9d3f-1f0e5f1c2d3e",
            "os-ddclient,os-wireguard",
            "/usr/local/opnsense/scripts/firmware/launcher.sh",
            "net.inet.ip.intr_queue_maxlen",
            "Europe/Amsterdam",
            "@example.org: see the manual, chapter 3",
            "63a2b1c0d4e5f",
            "OPNsenseDefaultConfigurationTemplate",
        ] {
            assert_eq!(look(value), Look::Plain, "{value}");
        }
    }

    #[test]
    fn keys_and_hashes_are_secret_without_doubt() {
        let pem =
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";
        let both = format!("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n{pem}");
        let wrapped = LENIENT.encode(pem);
        for value in
            [pem, &wrapped, &both, &LENIENT.encode(&both), "$2y$10$abcdefghijk", "{SSHA}abcd"]
        {
            assert_eq!(look(value), Look::Secret, "{value}");
        }
    }

    #[test]
    fn certificates_may_be_seen() {
        let pem =
            "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQk\n-----END CERTIFICATE-----\n";
        assert_eq!(look(pem), Look::Plain);
        assert_eq!(look(&LENIENT.encode(pem)), Look::Plain);
    }

    #[test]
    fn random_words_are_suspect_wherever_they_stand() {
        for value in [
            "d41d8cd98f00b204e9800998ecf8427e",
            "Kx8vQ2mZp4Lr7TnW3sYbHc9d",
            "wHhLrX5x3n2b0Qm8z7J1v6Kk4P9sT0uYfD2gE3iA5cM=",
            "AB12C-CD34E-EF56G-GH78I",
            "--set key Kx8vQ2mZp4Lr7TnW3sYbHc9d",
            "https://hooks.example/T0/Kx8vQ2mZp4Lr7TnW3sYbHc9d",
        ] {
            assert!(matches!(look(value), Look::Suspect(_)), "{value}");
        }
    }

    #[test]
    fn settings_in_free_text_are_suspect() {
        for value in
            ["user=me\npassword = hunter2", "auth-pass hunter2", "{\"token\": \"x\"}", "psk:abc"]
        {
            assert!(matches!(look(value), Look::Suspect(_)), "{value}");
        }
        assert!(matches!(look(&LENIENT.encode("password=hunter2")), Look::Suspect(_)));
    }

    #[test]
    fn names_tell_too() {
        for name in
            ["httpdPassword", "setup_key", "auth-gen-token-secret", "ldap_bindpw", "rocommunity"]
        {
            assert!(is_secret_name(&["opnsense", name]), "{name}");
        }
        assert!(is_secret_name(&["opnsense", "apikeys", "item"]));
        for name in ["descr", "interface", "pubkey", "keyid", "passthrough"] {
            assert!(!is_secret_name(&["opnsense", name]), "{name}");
        }
    }
}
