//! Documents of the house before a question: a real repository, real daemons, a real engine.

use std::time::Duration;

use homelab_tests::{
    gateway_lab::{DOCUMENT, GatewayLab, MODEL},
    process::output,
    wait::{Look, wait_for},
};
use serde_json::{Value, json};

/// A repository is read at the start of the controller, and again when that came too early.
const READ_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn an_answer_cites_the_documents_that_its_prompt_held() {
    let mut lab = GatewayLab::start().unwrap();
    wait_for("the repository is read", READ_WITHIN, || {
        let found = lab.labctl_json(&["ai", "context", "search", "which MAC does x99 wake by?"])?;
        let is_found = found.to_string().contains("02:00:00:00:00:40");
        Ok(if is_found { Look::Ready(()) } else { Look::NotYet(found.to_string()) })
    })
    .unwrap();
    let question = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "Which MAC does x99 wake by?"}],
        "max_tokens": 8,
    });
    let plain = ask(&lab, &question);
    assert!(plain.get("homelab").is_none(), "nobody asked for context: {plain}");
    let mut with_context = question;
    with_context["homelab"] = json!({"context": "notes"});
    let cited = ask(&lab, &with_context);
    let citation = &cited["homelab"]["citations"][0];
    assert_eq!((&citation["source"], &citation["document"]), (&json!("notes"), &json!(DOCUMENT)));
    // The engine counts what it read, and knows nothing of citations.
    let read = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let (without, with) = (read(&plain), read(&cited));
    assert!(with > without + 30, "{without} tokens without the passage, {with} with it");
    let jobs = lab.labctl_json(&["job", "list"]).unwrap();
    assert!(jobs.to_string().contains("SUCCEEDED") || jobs.to_string().contains("succeeded"));
    lab.stop().unwrap();
}

fn ask(lab: &GatewayLab, question: &Value) -> Value {
    let mut curl = lab.curl("/v1/chat/completions");
    curl.args(["--max-time", "60", "--header", "Content-Type: application/json", "--data"]);
    let answer = output(curl.arg(question.to_string())).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}
