//! Files of the pages, built in.

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

/// Files are small and change with the software: browsers ask again after this long.
const CACHE: &str = "private, max-age=300";

/// One file by its name.
pub(super) async fn get(Path(name): Path<String>) -> Response {
    let (kind, content): (&'static str, &'static str) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", include_str!("../../../assets/style.css")),
        "live.js" => ("text/javascript; charset=utf-8", include_str!("../../../assets/live.js")),
        "chat.js" => ("text/javascript; charset=utf-8", include_str!("../../../assets/chat.js")),
        "markdown.js" => {
            ("text/javascript; charset=utf-8", include_str!("../../../assets/markdown.js"))
        }
        "mark.svg" => ("image/svg+xml", include_str!("../../../assets/mark.svg")),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(CACHE)),
    ];
    (headers, content).into_response()
}
