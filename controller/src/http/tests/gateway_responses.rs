//! Responses over the queue.

use super::*;

const CALL: &str = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#;

impl Lab {
    async fn respond(&self, wish: &Value) -> Response<Body> {
        let headers = [("authorization", "Bearer sk-webui")];
        let body = Body::from(wish.to_string());
        self.call(request(Method::POST, "/v1/responses", &headers, body)).await
    }
}

fn events(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_a_chat_in_another_form() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let metadata = json!({"a": "b", "tags": "local-only"});
    let wish = json!({"model": "small", "input": "Hi", "metadata": metadata});
    let response = body_json(lab.respond(&wish).await).await;
    assert_eq!(
        (&response["object"], &response["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert_eq!(response["output"][0]["content"][0]["text"], "Hello");
    assert_eq!(
        (&response["usage"]["total_tokens"], &response["metadata"]["a"]),
        (&json!(3), &json!("b"))
    );
    let asked: Value =
        serde_json::from_slice(&lab.rig.engines.requests()[0].openai_request).expect("JSON");
    assert_eq!(asked["messages"], json!([{"role": "user", "content": "Hi"}]));
    assert_eq!(asked["metadata"], metadata, "tags in it say what may not leave the house");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_response_is_told_in_order() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let text =
        text(lab.respond(&json!({"model": "small", "input": "Hi", "stream": true})).await).await;
    let events = events(&text);
    let kinds: Vec<_> =
        events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..9).map(Some).collect::<Vec<_>>());
    assert_eq!(events[8]["response"]["usage"]["total_tokens"], 3);
    assert!(text.starts_with("event: response.created\ndata: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_tool_is_an_item_of_its_own() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Say("", CALL), Step::Done]);
    }
    let whole = body_json(lab.respond(&json!({"model": "small", "input": "Hi"})).await).await;
    let call = &whole["output"][0];
    assert_eq!(
        (&call["type"], &call["call_id"], &call["name"]),
        (&json!("function_call"), &json!("c1"), &json!("f"))
    );
    let text =
        text(lab.respond(&json!({"model": "small", "input": "Hi", "stream": true})).await).await;
    let events = events(&text);
    let done = events.iter().find(|event| event["type"] == "response.function_call_arguments.done");
    assert_eq!(done.expect("is told")["arguments"], "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_fails_says_so_as_its_last_event() {
    let lab = Lab::new().await;
    lab.rig.engines.script(vec![Step::Say("He", HELLO), Step::Break("ENGINE_CRASHED", true)]);
    let text =
        text(lab.respond(&json!({"model": "small", "input": "Hi", "stream": true})).await).await;
    let last = events(&text).pop().expect("an event");
    assert_eq!(last["type"], "response.failed");
    assert_eq!(last["response"]["status"], "failed");
}
