//! Passages before a job.

use homelab_domain::{
    context::Leaves,
    job::{JobRequest, RequestForm},
};
use homelab_proto::inference::v1::{ChatCompleteRequest, ChatMessage, ChatRole};
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    super::attach::{AttachError, ContextWish, asked},
    rig::{Rig, commit},
};
use crate::job::convert::request_from_messages;

const SOURCES: &str = "[[context.source]]\nname = \"homelab\"\ngit = \"{folder}/repo\"\n\
    leaves = \"by-rule\"\n[[context.source]]\nname = \"private\"\ngit = \"{folder}/private\"\n";

async fn rig() -> Rig {
    let rig = Rig::new(SOURCES).await;
    let folder = rig.folder.path();
    commit(&folder.join("repo"), &[("wake.md", b"# Wake\nA magic packet wakes x99.\n")]).await;
    commit(&folder.join("private"), &[("own.md", b"# Own\nThe magic packet of x99 is blue.\n")])
        .await;
    rig.look().await;
    rig
}

fn chat(text: &str) -> JobRequest {
    let body = json!({ "messages": [{ "role": "user", "content": text }], "x": 1 });
    JobRequest::new(RequestForm::OpenaiChat, body.to_string().into_bytes())
}

fn only(source: &str) -> ContextWish {
    ContextWish { sources: vec![source.to_owned()], ..Default::default() }
}

#[tokio::test]
async fn passages_go_before_what_is_said_with_their_citations() {
    let rig = rig().await;
    let before = chat("what wakes x99?");
    let digest = asked(&before);
    let after = rig.documents.attach(before, &ContextWish::default()).await.expect("attached");
    let attached = after.attached.as_deref().expect("something was found");
    assert_eq!(attached.citations.len(), 2);
    assert_eq!(attached.leaves, Leaves::Never, "the stricter of the two sources counts");
    assert_eq!(attached.asked, digest);
    assert_eq!(asked(&after), digest);
    let body: Value = serde_json::from_slice(&after.bytes).expect("JSON");
    assert_eq!(
        (&body["x"], &body["messages"][1]["content"]),
        (&json!(1), &json!("what wakes x99?"))
    );
    let text = body["messages"][0]["content"].as_str().expect("text");
    assert!(text.contains("A magic packet wakes x99."), "{text}");
    assert!(text.contains(&attached.citations[0].to_string()), "{text}");
}

#[tokio::test]
async fn a_job_is_given_passages_of_the_sources_that_it_names() {
    let rig = rig().await;
    let after = rig.documents.attach(chat("what wakes x99?"), &only("homelab")).await;
    let attached = after.expect("attached").attached.expect("something was found");
    assert_eq!(attached.leaves, Leaves::ByRule);
    assert!(attached.citations.iter().all(|citation| citation.source.as_str() == "homelab"));
    let wrong = rig.documents.attach(chat("x"), &only("homelap")).await;
    assert!(
        matches!(wrong, Err(AttachError::NoSource(error)) if error.known == "homelab, private, runbooks")
    );
    let none = ContextWish { bytes_max: Some(0), ..Default::default() };
    assert!(matches!(rig.documents.attach(chat("x"), &none).await, Err(AttachError::Bytes)));
}

#[tokio::test]
async fn a_job_for_which_nothing_is_found_stays_as_it_is() {
    let rig = rig().await;
    let before = chat("unrelated matters entirely");
    let after = rig.documents.attach(before.clone(), &ContextWish::default()).await;
    assert_eq!(after.expect("unchanged"), before);
}

#[tokio::test]
async fn messages_of_the_protocol_are_given_passages_too() {
    let rig = rig().await;
    let message = |role: ChatRole, content: &str| ChatMessage {
        role: role.into(),
        content: content.to_owned(),
    };
    let request = request_from_messages(vec![
        message(ChatRole::System, "Be kind."),
        message(ChatRole::User, "what wakes x99?"),
    ]);
    let after = rig.documents.attach(request, &only("homelab")).await.expect("attached");
    let sent = ChatCompleteRequest::decode(after.bytes.as_slice()).expect("a request");
    assert_eq!(sent.messages.len(), 2, "templates take one system message");
    assert!(sent.messages[0].content.starts_with("Be kind.\n\n"));
    assert!(sent.messages[0].content.contains("A magic packet wakes x99."));
}
