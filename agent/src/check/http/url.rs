//! Addresses of web pages, and what is wanted of a header.

use std::fmt;

use http::header::{HeaderMap, HeaderName};
use http::uri::{PathAndQuery, Uri};

use crate::check::connect::{InvalidTarget, Target};

/// Longest address that is taken.
const URL_BYTES_MAX: usize = 2048;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// The address of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(super) scheme: Scheme,
    pub(super) target: Target,
    /// Host and port as they were written, for the `Host` header.
    pub(super) authority: String,
    pub(super) path: PathAndQuery,
}

/// Why a text is no address of a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It has not the form of an address.
    #[error("`{0}` is no address such as https://192.168.200.20:8006/")]
    Malformed(String),
    /// It is neither http nor https.
    #[error("`{0}` begins neither with http:// nor with https://")]
    Scheme(String),
    /// It has a user or a password, which would be written to the evidence.
    #[error("addresses with a user or password are not taken")]
    HasUser,
    /// Its host or port cannot be used.
    #[error("the host of the address")]
    Target(#[source] InvalidTarget),
}

impl Url {
    /// Reads an absolute address.
    ///
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let malformed = || InvalidUrl::Malformed(text.chars().take(200).collect());
        if text.len() > URL_BYTES_MAX {
            return Err(malformed());
        }
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let (scheme, port) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            _ => return Err(InvalidUrl::Scheme(text.chars().take(200).collect())),
        };
        let authority = uri.authority().ok_or_else(malformed)?.as_str();
        if authority.contains('@') {
            return Err(InvalidUrl::HasUser);
        }
        let target = Target::parse(authority, Some(port)).map_err(InvalidUrl::Target)?;
        let path = uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { scheme, target, authority: authority.to_owned(), path })
    }

    /// Where `location` leads from here: another address, or another path of this server.
    /// Relative paths without a leading slash are not followed.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            let path = location.parse().ok()?;
            return Some(Self { path, ..self.clone() });
        }
        Self::parse(location).ok()
    }

    /// True when both lead to the same host, be it at another port.
    pub(super) fn is_same_host(&self, other: &Self) -> bool {
        self.target.host().eq_ignore_ascii_case(&other.target.host())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// A header that must be there, with a certain value or with any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderWanted {
    name: HeaderName,
    value: Option<String>,
}

/// A text that names no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no header; write `name` or `name: value`")]
pub struct InvalidHeader(String);

impl HeaderWanted {
    /// Reads `name` or `name: value`.
    ///
    /// # Errors
    /// Says that `text` names no header.
    pub fn parse(text: &str) -> Result<Self, InvalidHeader> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value.trim().to_owned())),
            None => (text, None),
        };
        let name = name.trim().parse().map_err(|_| InvalidHeader(text.to_owned()))?;
        Ok(Self { name, value })
    }

    pub(super) fn is_met(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match &self.value {
            Some(wanted) => values.any(|value| value.as_bytes() == wanted.as_bytes()),
            None => values.next().is_some(),
        }
    }
}

impl fmt::Display for HeaderWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {value}", self.name),
            None => self.name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_have_their_usual_port() {
        let target = |text| Url::parse(text).unwrap().target.to_string();
        assert_eq!(target("http://nas.home.arpa"), "nas.home.arpa:80");
        assert_eq!(target("https://192.168.200.20/x"), "192.168.200.20:443");
        assert_eq!(target("https://[fd00::1]:8006/"), "[fd00::1]:8006");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "nas", "ftp://nas/", "https://", "http://a b/", "http://u:p@nas/", "/x"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn places_are_joined_and_hosts_compared() {
        let url = Url::parse("http://NAS.home.arpa/a").unwrap();
        for (location, shown, is_same) in [
            ("/login?x=1", "http://NAS.home.arpa/login?x=1", true),
            ("https://nas.home.arpa:8443/", "https://nas.home.arpa:8443/", true),
            ("https://evil.example/", "https://evil.example/", false),
        ] {
            let next = url.join(location).unwrap();
            assert_eq!((next.to_string().as_str(), next.is_same_host(&url)), (shown, is_same));
        }
        assert_eq!(url.join("//evil.example/"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let url = Url::parse("http://nas/").unwrap();
            let _results = (Url::parse(&text), HeaderWanted::parse(&text), url.join(&text));
        }
    }
}
