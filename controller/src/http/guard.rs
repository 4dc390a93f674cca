//! What every request passes, whatever it asks for: a request id, the list of names under which
//! the controller may be addressed, and headers that bind the browser.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use homelab_common::{chance, chance::Chance, clock::Clock};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tracing::Instrument as _;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// No inline script or style, nothing from elsewhere, no frames.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
                      object-src 'none'";

/// One year; the certificate is from our own CA, so there is no preload list to think of.
const STRICT_TRANSPORT_SECS: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Names and addresses under which the controller may be addressed. Another name in `Host` means
/// that somebody's DNS points a browser at us on purpose.
#[derive(Clone, Debug, Default)]
pub struct HostNames(Arc<[String]>);

impl HostNames {
    /// `names` without ports; `localhost` and loopback addresses are always allowed.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn allows(&self, authority: &str) -> bool {
        let name = without_port(authority).to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let loopback = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || name == "localhost" || self.0.iter().any(|allowed| allowed == bare)
    }
}

/// What the guard needs.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Names that are answered.
    pub names: HostNames,
    /// The time of day, for request ids.
    pub clock: Arc<dyn Clock>,
    /// For request ids.
    pub chance: Arc<dyn Chance>,
}

/// Identifier of a request: in the log, and in the answer's `x-request-id`.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Lets a request in, or not, and puts the headers on its answer.
pub async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let id = chance::uuid_v7(guard.clock.as_ref(), guard.chance.as_ref()).to_string();
    let authority =
        request.uri().authority().map(|authority| authority.as_str().to_owned()).or_else(|| {
            let host = request.headers().get(header::HOST)?.to_str().ok()?;
            Some(host.to_owned())
        });
    let mut response = if authority
        .as_deref()
        .is_some_and(|authority| guard.names.allows(authority))
    {
        request.extensions_mut().insert(RequestId(id.clone()));
        let span =
            tracing::info_span!("http", request_id = %id, path = shown(request.uri().path()));
        next.run(request).instrument(span).await
    } else {
        let words = "This name is not one of the controller's. Use the address that `labctl dashboard` prints.\n";
        (StatusCode::MISDIRECTED_REQUEST, words).into_response()
    };
    bind_browser(&mut response, &id);
    response
}

/// A path as it may stand in a log: a login link is a secret.
fn shown(path: &str) -> &str {
    if path.starts_with("/login/") { "/login/…" } else { path }
}

fn bind_browser(response: &mut Response, id: &str) {
    let headers = response.headers_mut();
    let mut set = |name, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()");
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let strict = format!("max-age={}", STRICT_TRANSPORT_SECS.as_secs());
    for (name, value) in [(header::STRICT_TRANSPORT_SECURITY, strict.as_str()), (REQUEST_ID, id)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The last colon of a bare IPv6 address is no port.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            if name.contains(':') && !name.ends_with(']') { authority } else { name }
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_answered() {
        let names = HostNames::new(["hx310-db.Home.Arpa".to_owned(), "192.168.200.20".to_owned()]);
        for good in [
            "hx310-db.home.arpa:7480",
            "HX310-DB.home.arpa",
            "192.168.200.20:7480",
            "127.0.0.1:1",
            "127.8.9.1",
            "localhost:7480",
            "[::1]:7480",
            "[::1]",
        ] {
            assert!(names.allows(good), "{good}");
        }
        for bad in [
            "evil.example",
            "hx310-db.home.arpa.evil.example",
            "",
            ":7480",
            "192.168.200.2",
            "localhost.evil",
        ] {
            assert!(!names.allows(bad), "{bad}");
        }
    }
}
