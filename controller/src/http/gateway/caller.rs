//! What a request tells about where it comes from, beside its key.

use http::{HeaderMap, HeaderName};

/// What Open WebUI asks by itself: `{{TASK}}` of a connection that was set up as our manual says.
const TASK: HeaderName = HeaderName::from_static("x-lab-task");

/// Which conversation a request belongs to: Open WebUI's own header, and `{{CHAT_ID}}`.
const CHATS: [HeaderName; 2] =
    [HeaderName::from_static("x-lab-chat"), HeaderName::from_static("x-openwebui-chat-id")];

/// Headers that only Open WebUI sends begin with this.
const OPEN_WEBUI: &str = "x-openwebui-";

/// Longest name of a conversation, in bytes; Open WebUI's are 36.
const CHAT_BYTES_MAX: usize = 128;

/// Where a request comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The conversation that it belongs to, if it says so: its next turn is answered fastest where
    /// the last one was.
    pub chat: Option<String>,
    /// Whether a program asks by itself (a title, tags) and nobody waits for it.
    pub is_background: bool,
    /// Whether status events are understood.
    pub is_open_webui: bool,
}

impl Caller {
    /// Reads it from the headers of a request.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let chat = CHATS.iter().find_map(text).filter(|chat| chat.len() <= CHAT_BYTES_MAX);
        // A connection that was set up by the manual sends both, one of them often empty.
        let by_manual = headers.contains_key(&TASK) || headers.contains_key(&CHATS[0]);
        let by_itself = headers.keys().any(|name| name.as_str().starts_with(OPEN_WEBUI));
        Self { chat, is_background: text(&TASK).is_some(), is_open_webui: by_manual || by_itself }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Caller {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Caller::of(&headers.collect())
    }

    #[test]
    fn a_chat_of_open_webui_is_known_by_its_own_header_or_by_ours() {
        for name in ["x-openwebui-chat-id", "x-lab-chat"] {
            let caller = of(&[(name, "c-1"), ("x-lab-task", "")]);
            assert_eq!(caller.chat.as_deref(), Some("c-1"), "{name}");
            assert!(caller.is_open_webui && !caller.is_background, "{name}");
        }
    }

    #[test]
    fn a_title_is_background() {
        let caller = of(&[("x-lab-task", "title_generation")]);
        assert!(caller.is_background && caller.is_open_webui && caller.chat.is_none());
    }

    #[test]
    fn other_programs_are_nobody_special() {
        assert_eq!(of(&[("user-agent", "OpenAI/Python 2.54.0")]), Caller::default());
    }
}
