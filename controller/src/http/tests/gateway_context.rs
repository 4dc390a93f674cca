//! Documents of the house before a request, and citations in its answer.

use homelab_domain::{
    context::{Passage, Refreshed},
    ids::SourceName,
};

use super::*;

const KEY: (&str, &str) = ("authorization", "Bearer sk-few");

/// One passage, in the source of approved runbooks.
async fn keep_a_passage(lab: &Lab) {
    let source = SourceName::try_new("runbooks").expect("a name");
    let passage = Passage {
        id: [7; 16],
        document: "runbook/1".to_owned(),
        heading: "Wake x99 > Steps".to_owned(),
        url: String::new(),
        version: "c0ffee".to_owned(),
        text: "Send the magic packet.".to_owned(),
    };
    let refreshed = Refreshed {
        at: lab.rig.clock_now(),
        version: "c0ffee".to_owned(),
        fingerprint: [0; 32],
        documents: 1,
        passages: 1,
        withheld: 0,
        skipped: 0,
        notes: Vec::new(),
    };
    let mut tx = lab.rig.store.begin().await.expect("a transaction");
    let generation = tx.context().begin(&source).await.expect("kept");
    tx.context().put(&source, generation, &[passage]).await.expect("kept");
    tx.context().publish(&source, generation, &refreshed).await.expect("kept");
    tx.commit().await.expect("kept");
}

fn asks(stream: bool) -> Value {
    json!({
        "model": "small", "stream": stream, "homelab": {"context": true},
        "messages": [{"role": "user", "content": "who sends a magic packet?"}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cites_what_was_put_before_its_request() {
    let lab = Lab::new().await;
    keep_a_passage(&lab).await;
    lab.rig.engines.script(answer());
    let response = lab.chat(&asks(false), &[KEY]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let id = response.headers()["x-homelab-job"].to_str().expect("text").to_owned();
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let citation = &body["homelab"]["citations"][0];
    assert_eq!(
        (&citation["source"], &citation["document"]),
        (&json!("runbooks"), &json!("runbook/1"))
    );
    let sent: Value =
        serde_json::from_slice(&lab.rig.engines.requests()[0].openai_request).expect("JSON");
    let text = sent["messages"][0]["content"].as_str().expect("text");
    assert!(text.contains("Send the magic packet."), "{text}");
    let (job, _) =
        lab.rig.jobs.get(id.parse().expect("an id")).await.expect("readable").expect("a job");
    let attached = job.spec().request.attached.as_deref().expect("kept with the job");
    assert_eq!(attached.citations[0].heading, "Wake x99 > Steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_chunk_of_a_stream_cites_too() {
    let lab = Lab::new().await;
    keep_a_passage(&lab).await;
    lab.rig.engines.script(answer());
    let response = lab.chat(&asks(true), &[KEY]).await;
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    let text = String::from_utf8_lossy(&body);
    let citing: Vec<&str> = text.lines().filter(|line| line.contains("\"citations\"")).collect();
    assert_eq!(citing.len(), 1, "{text}");
    assert!(citing[0].contains("\"finish_reason\":\"stop\""), "{text}");
    assert!(text.contains(HELLO), "all else is passed on byte for byte: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_context_in_its_line_is_given_none() {
    let lab = Lab::new().await;
    keep_a_passage(&lab).await;
    let refused = lab.chat(&asks(false), &[]).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let mut other = asks(false);
    other["homelab"]["context"] = json!("wiki");
    assert_eq!(lab.chat(&other, &[KEY]).await.status(), StatusCode::FORBIDDEN);
    let header = ("x-homelab-context", "all");
    let mut plain = asks(false);
    plain.as_object_mut().expect("an object").remove("homelab");
    assert_eq!(lab.chat(&plain, &[header]).await.status(), StatusCode::FORBIDDEN);
}
