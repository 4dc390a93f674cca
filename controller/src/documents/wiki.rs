//! Pages of Wiki.js, by its GraphQL API (version 2).
//!
//! The token goes to the host of the site file and nowhere else: a redirect is an error. Wiki.js
//! says what went wrong with status 200 and a list of errors, so that is looked at first.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use homelab_common::{
    clock::Clock,
    secret::{Secret, SecretError, Source},
    tls::{
        Alpn, ClientOptions, ConnectError, Protocol, Roots, ServerTrust, TlsClient, TrustHandle,
    },
};
use homelab_domain::{
    context::{Document, WikiSource},
    site::ProviderUrl,
};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    harvest::{DOCUMENT_BYTES_MAX, DOCUMENTS_MAX, Harvest, TOTAL_BYTES_MAX},
    html,
};
use crate::exchange::{Exchange, ReadError};

/// The CAs that Debian trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Until the connection stands.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Until an answer is complete.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Pages that are asked for at once.
const PAGES_AT_ONCE: usize = 20;

/// Characters of what the wiki says that are passed on.
const SAID_CHARS_MAX: usize = 300;

/// Why the wiki could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WikiError {
    /// The token cannot be loaded.
    #[error("the token could not be loaded")]
    Token(#[source] SecretError),
    /// The token is not named in a way that can be read, or cannot stand in a header.
    #[error(
        "the token is none: it is not named in a way that can be read, or holds what no token holds"
    )]
    NoToken,
    /// The CAs that may vouch for the wiki cannot be read.
    #[error("could not load the CAs in `{}`", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No connection.
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// The answer could not be read.
    #[error("the answer could not be read")]
    Read(#[source] ReadError),
    /// It took too long.
    #[error("it has not answered within {} s", ANSWER_DEADLINE.as_secs())]
    Deadline,
    /// It answered with something else than success.
    #[error("it answered {status}{}", hint(*status))]
    Status {
        /// What.
        status: StatusCode,
    },
    /// It refused what was asked for.
    #[error(
        "it refused: {said}; the token's group needs read:pages and read:source, and API access must be on"
    )]
    Refused {
        /// In its words, cut short.
        said: String,
    },
    /// It said something that cannot be read.
    #[error("its answer is not of Wiki.js 2")]
    Garbage(#[source] serde_json::Error),
}

fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => ": the token is not accepted",
        300..=399 => ": it points elsewhere; set `wiki` to where it is now",
        _ => "",
    }
}

/// A wiki, as this controller reads it.
#[derive(Debug)]
pub struct Wiki<'a> {
    source: &'a WikiSource,
    clock: Arc<dyn Clock>,
}

/// One page of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageRow {
    id: u64,
    path: String,
    locale: String,
    title: Option<String>,
    content_type: String,
    is_published: bool,
    is_private: bool,
    updated_at: String,
}

impl PageRow {
    /// What tells one state of the page from another.
    pub(super) fn state(&self) -> String {
        format!("{} {} {} {}\n", self.id, self.locale, self.path, self.updated_at)
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    #[serde(default)]
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Pages<T> {
    pages: Option<T>,
}

#[derive(Deserialize)]
struct List {
    list: Vec<PageRow>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    id: u64,
    content: String,
    updated_at: String,
}

impl<'a> Wiki<'a> {
    /// The wiki of a source.
    #[must_use]
    pub fn new(source: &'a WikiSource, clock: Arc<dyn Clock>) -> Self {
        Self { source, clock }
    }

    /// The pages that everybody may read, in the order of their paths.
    ///
    /// # Errors
    /// The wiki does not answer, or refuses.
    pub async fn list(&self) -> Result<Vec<PageRow>, WikiError> {
        // It has no second page of a list: whoever wants all asks for many.
        let query = "query ($limit: Int, $locale: String) { pages { list(limit: $limit, orderBy: PATH, \
                     locale: $locale) { id path locale title contentType isPublished isPrivate updatedAt } } }";
        let variables = json!({ "limit": DOCUMENTS_MAX * 2, "locale": self.source.locale });
        let pages: List = self.ask(query, &variables).await?;
        let mut pages = pages.list;
        pages.retain(|page| {
            page.is_published
                && !page.is_private
                && page.path.starts_with(&self.source.prefix)
                && self.source.locale.as_ref().is_none_or(|locale| *locale == page.locale)
        });
        pages.sort_by(|one, other| (&one.path, &one.locale).cmp(&(&other.path, &other.locale)));
        Ok(pages)
    }

    /// Reads the pages of a list.
    ///
    /// # Errors
    /// As [`Wiki::list`].
    pub async fn read(&self, pages: &[PageRow]) -> Result<Harvest, WikiError> {
        let mut harvest = Harvest::default();
        let mut total = 0;
        let (taken, rest) = pages.split_at(pages.len().min(DOCUMENTS_MAX));
        for page in rest {
            harvest.pass_over(&page.path, "the source has more than is read");
        }
        for some in taken.chunks(PAGES_AT_ONCE) {
            let fields: String = some
                .iter()
                .map(|page| format!("p{0}: single(id: {0}) {{ id content updatedAt }} ", page.id))
                .collect();
            let query = format!("query {{ pages {{ {fields}}} }}");
            let read: std::collections::HashMap<String, Option<Page>> =
                self.ask(&query, &json!({})).await?;
            for row in some {
                let page = read.get(&format!("p{}", row.id)).and_then(Option::as_ref);
                let Some(page) = page.filter(|page| page.id == row.id) else {
                    harvest.pass_over(&row.path, "it is gone since the list was read");
                    continue;
                };
                let bytes = page.content.len() as u64;
                if bytes > DOCUMENT_BYTES_MAX {
                    harvest.pass_over(&row.path, "it is larger than 256 KiB");
                } else if total + bytes > TOTAL_BYTES_MAX {
                    harvest.pass_over(&row.path, "the source has more than is read");
                } else if let Some(document) = self.document(row, page) {
                    total += bytes;
                    harvest.documents.push(document);
                } else {
                    harvest.pass_over(&row.path, "it is neither Markdown nor HTML");
                }
            }
        }
        Ok(harvest)
    }

    fn document(&self, row: &PageRow, page: &Page) -> Option<Document> {
        let text = match row.content_type.as_str() {
            "markdown" => page.content.clone(),
            "html" => html::text(&page.content),
            _ => return None,
        };
        Some(Document {
            path: row.path.clone(),
            title: row.title.clone().unwrap_or_default(),
            url: format!("{}/{}/{}", shown(&self.source.url), row.locale, row.path),
            version: page.updated_at.clone(),
            text,
        })
    }

    async fn ask<T: for<'d> Deserialize<'d>>(
        &self,
        query: &str,
        variables: &Value,
    ) -> Result<T, WikiError> {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let asking = self.exchange(body);
        let answer = timeout(CONNECT_DEADLINE + ANSWER_DEADLINE, asking);
        let answer = answer.await.map_err(|_| WikiError::Deadline)??;
        // What is refused has no data, or data without what was asked for; so errors come first.
        let refused: Answer<Value> = serde_json::from_slice(&answer).map_err(WikiError::Garbage)?;
        if let Some(error) = refused.errors.first() {
            let said = error.message.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX);
            return Err(WikiError::Refused { said: said.collect() });
        }
        let answer: Answer<Pages<T>> =
            serde_json::from_slice(&answer).map_err(WikiError::Garbage)?;
        answer
            .data
            .and_then(|data| data.pages)
            .ok_or_else(|| WikiError::Refused { said: "nothing was answered".to_owned() })
    }

    async fn exchange(&self, body: String) -> Result<Bytes, WikiError> {
        let url = &self.source.url;
        let token = self.token()?;
        let authority = authority(url);
        let request = Request::post(format!("{}/graphql", url.path()))
            .header(header::HOST, authority.strip_suffix(":443").unwrap_or(&authority))
            .header(header::USER_AGENT, concat!("homelab/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, format!("Bearer {}", token.expose().trim()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| WikiError::NoToken)?;
        let connecting = self.client()?;
        let connection = connecting.connect(&authority, url.host(), CONNECT_DEADLINE).await;
        let connection = Box::new(connection.map_err(WikiError::Connect)?);
        let mut exchange = Exchange::start(connection, request).await.map_err(WikiError::Broken)?;
        if exchange.status() != StatusCode::OK {
            return Err(WikiError::Status { status: exchange.status() });
        }
        exchange.whole(ANSWER_BYTES_MAX).await.map_err(WikiError::Read)
    }

    fn token(&self) -> Result<Secret<String>, WikiError> {
        let token: Source = self.source.token.parse().map_err(|_| WikiError::NoToken)?;
        token.load().map_err(WikiError::Token)
    }

    fn client(&self) -> Result<TlsClient, WikiError> {
        let path = self.source.ca_file.as_deref().unwrap_or_else(|| Path::new(SYSTEM_ROOTS));
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| WikiError::Roots {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.into()))?;
        let roots = Roots::from_pem(&text).map_err(|error| wrong(error.into()))?;
        let options = ClientOptions {
            // A server that is offered nothing speaks HTTP/1.1.
            alpn: Alpn::None,
            protocol: Protocol::Tls12And13,
            clock: Arc::clone(&self.clock),
            ..ClientOptions::new(ServerTrust::Roots(TrustHandle::new(roots)))
        };
        TlsClient::new(options).map_err(|error| wrong(error.into()))
    }
}

fn authority(url: &ProviderUrl) -> String {
    let (host, port) = (url.host(), url.port());
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// As a browser shows it: without the usual port.
fn shown(url: &ProviderUrl) -> String {
    let authority = authority(url);
    format!("https://{}{}", authority.strip_suffix(":443").unwrap_or(&authority), url.path())
}
