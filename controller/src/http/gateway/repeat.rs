//! Requests that SDKs send again by themselves, known by key and body.
//!
//! An SDK that gives up waiting asks again within seconds, for the same and with a counter. Without
//! this it would go to the end of the queue each time. Only a request that says that it is a
//! repetition is taken for one: who asks the same twice on purpose wants two answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use homelab_domain::{ids::JobId, job::RequestForm};
use http::{HeaderMap, HeaderName};
use ring::digest;

/// How often the SDKs of OpenAI have sent a request before.
const COUNTER: HeaderName = HeaderName::from_static("x-stainless-retry-count");

type Print = [u8; digest::SHA256_OUTPUT_LEN];

/// Requests that wait now and may be sent again. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Print, Waiting>>>);

#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: JobId,
    clients: u32,
}

/// One request that can be found as long as this lives.
#[derive(Debug)]
pub(super) struct Repeat {
    all: Repeats,
    print: Print,
}

/// What the client says about sending it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing: it is no SDK that asks again by itself.
    Once,
    /// It may come again.
    First,
    /// It was sent before.
    Again,
}

impl Sent {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let count =
            headers.get(&COUNTER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        match count {
            None => Self::Once,
            Some(0) => Self::First,
            Some(_) => Self::Again,
        }
    }
}

impl Repeats {
    /// The job of the same request, if it still waits.
    pub(super) fn find(&self, key: &str, form: RequestForm, body: &[u8]) -> Option<JobId> {
        self.lock().get(&print(key, form, body)).map(|waiting| waiting.id)
    }

    /// Lets a request be found.
    pub(super) fn keep(&self, key: &str, form: RequestForm, body: &[u8], id: JobId) -> Repeat {
        let print = print(key, form, body);
        let mut all = self.lock();
        let waiting = all.entry(print).or_insert(Waiting { id, clients: 0 });
        waiting.id = id;
        waiting.clients += 1;
        Repeat { all: self.clone(), print }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Print, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        match all.get_mut(&self.print) {
            Some(waiting) if waiting.clients > 1 => waiting.clients -= 1,
            _ => {
                all.remove(&self.print);
            }
        }
    }
}

fn print(key: &str, form: RequestForm, body: &[u8]) -> Print {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [key, form.as_str()] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.update(body);
    let mut print = Print::default();
    print.copy_from_slice(context.finish().as_ref());
    print
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_request_is_found_by_its_key_and_body_as_long_as_it_waits() {
        let repeats = Repeats::default();
        let id: JobId = Uuid::from_u128(7).into();
        let chat = RequestForm::OpenaiChat;
        let first = repeats.keep("webui", chat, b"{}", id);
        let second = repeats.keep("webui", chat, b"{}", id);
        drop(first);
        assert_eq!(repeats.find("webui", chat, b"{}"), Some(id));
        assert_eq!(repeats.find("other", chat, b"{}"), None);
        assert_eq!(repeats.find("webui", RequestForm::OpenaiCompletion, b"{}"), None);
        assert_eq!(repeats.find("webui", chat, b"{ }"), None);
        drop(second);
        assert_eq!(repeats.find("webui", chat, b"{}"), None);
    }
}
