//! Batches, from the file to the answers.

use super::*;
use crate::{http::gateway::batches::runner::Runner, task::BackgroundTask as _};

const WEBUI: (&str, &str) = ("authorization", "Bearer sk-webui");

impl Lab {
    async fn give(&self, lines: &str) -> Value {
        self.give_as(WEBUI, lines).await
    }

    async fn give_as(&self, key: (&str, &str), lines: &str) -> Value {
        let form = format!(
            "--XyZ\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XyZ\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
             Content-Type: application/jsonl\r\n\r\n{lines}\r\n--XyZ--\r\n"
        );
        let headers = [key, ("content-type", "multipart/form-data; boundary=XyZ")];
        let response =
            self.call(request(Method::POST, "/v1/files", &headers, Body::from(form))).await;
        assert_eq!(response.status(), StatusCode::OK);
        body_json(response).await
    }

    async fn post(&self, path: &str, body: &Value) -> Response<Body> {
        self.call(request(Method::POST, path, &[WEBUI], Body::from(body.to_string()))).await
    }

    async fn batch_of(&self, lines: &str) -> Value {
        let file = self.give(lines).await;
        let wish = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions",
            "completion_window": "24h", "metadata": {"for": "test"}});
        let response = self.post("/v1/batches", &wish).await;
        assert_eq!(response.status(), StatusCode::OK);
        body_json(response).await
    }

    async fn batch(&self, id: &Value) -> Value {
        let path = format!("/v1/batches/{}", id.as_str().expect("an id"));
        body_json(self.get(&path, &[WEBUI]).await).await
    }

    async fn rows(&self, id: &Value) -> Vec<Value> {
        let path = format!("/v1/files/{}/content", id.as_str().expect("an id"));
        let text = text(self.get(&path, &[WEBUI]).await).await;
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Rounds of runner and dispatcher until the batch stands as wished.
    async fn until_batch(&self, id: &Value, wished: &str) -> Value {
        let runner = Runner::new(self.gateway.clone());
        for _ in 0..500 {
            runner.activate().await.expect("a round");
            self.rig.round().await;
            let batch = self.batch(id).await;
            if batch["status"] == wished {
                return batch;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never {wished}: {}", self.batch(id).await);
    }
}

fn line(custom_id: &str, model: &str) -> String {
    json!({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": custom_id}]}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_line_under_its_own_name() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        lab.rig.engines.script(answer());
    }
    lab.rig.engines.script(vec![Step::Break("ENGINE_REFUSED", false)]);
    let lines = ["a", "b", "c"].map(|id| line(id, "small")).join("\n");
    let lines = format!("{lines}\n{}\n", line("d", "nowhere"));
    let batch = lab.batch_of(&lines).await;
    assert_eq!(
        (&batch["status"], &batch["request_counts"]["total"]),
        (&json!("in_progress"), &json!(4))
    );
    let batch = lab.until_batch(&batch["id"], "completed").await;
    assert_eq!(batch["request_counts"], json!({"total": 4, "completed": 2, "failed": 2}));
    assert_eq!(batch["metadata"], json!({"for": "test"}));
    let answers = lab.rows(&batch["output_file_id"]).await;
    assert_eq!(answers.len(), 2);
    for row in &answers {
        assert_eq!(row["response"]["status_code"], 200);
        assert_eq!(row["response"]["body"]["choices"][0]["message"]["content"], "Hello");
    }
    let errors = lab.rows(&batch["error_file_id"]).await;
    let codes: std::collections::BTreeMap<_, _> = errors
        .iter()
        .map(|row| (row["custom_id"].as_str(), row["response"]["status_code"].as_u64()))
        .collect();
    assert_eq!(codes[&Some("d")], Some(404));
    assert_eq!(codes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_survives_the_death_of_its_controller_and_asks_nothing_twice() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        lab.rig.engines.script(answer());
    }
    let batch = lab.batch_of(&["a", "b", "c"].map(|id| line(id, "large")).join("\n")).await;
    let runner = Runner::new(lab.gateway.clone());
    runner.activate().await.expect("a round");
    let lab = lab.restart().await;
    assert_eq!(lab.batch(&batch["id"]).await["request_counts"]["completed"], 0);
    for _ in 0..3 {
        lab.rig.engines.script(answer());
    }
    lab.rig.engines.contact("x99", Contact::Connected);
    let batch = lab.until_batch(&batch["id"], "completed").await;
    assert_eq!(batch["request_counts"]["completed"], 3);
    assert_eq!(lab.rig.engines.requests().len(), 3);
    let names: std::collections::BTreeSet<_> = lab
        .rows(&batch["output_file_id"])
        .await
        .iter()
        .map(|row| row["custom_id"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_keeps_what_it_has_and_drops_the_rest() {
    let lab = Lab::new().await;
    let lines: Vec<_> = (0..40).map(|number| line(&format!("n{number}"), "large")).collect();
    let batch = lab.batch_of(&lines.join("\n")).await;
    Runner::new(lab.gateway.clone()).activate().await.expect("a round");
    let counts = lab.rig.jobs.counts().await.expect("readable");
    assert_eq!(counts.pending, 32, "a few lines at a time");
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().expect("an id"));
    let cancelled = body_json(lab.post(&path, &json!({})).await).await;
    assert_eq!(cancelled["status"], "cancelling");
    let batch = lab.until_batch(&batch["id"], "cancelled").await;
    assert_eq!(batch["request_counts"], json!({"total": 40, "completed": 0, "failed": 40}));
    let errors = lab.rows(&batch["error_file_id"]).await;
    assert!(errors.iter().all(|row| row["error"]["code"] == "batch_cancelled"), "{errors:?}");
    assert_eq!(lab.rig.jobs.counts().await.expect("readable").pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_done_in_a_day_expires() {
    let lab = Lab::new().await;
    let batch = lab.batch_of(&line("a", "large")).await;
    Runner::new(lab.gateway.clone()).activate().await.expect("a round");
    lab.rig.clock.advance(Duration::from_secs(24 * 3_600));
    let batch = lab.until_batch(&batch["id"], "expired").await;
    let errors = lab.rows(&batch["error_file_id"]).await;
    assert_eq!(errors[0]["error"]["code"], "batch_expired", "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_batches_belong_to_their_key() {
    let lab = Lab::new().await;
    let file = lab.give(&line("a", "small")).await;
    // Ids of one millisecond have no order.
    lab.rig.clock.advance(Duration::from_secs(1));
    let batch = lab.batch_of(&line("a", "small")).await;
    let stranger = [("authorization", "Bearer sk-bronze")];
    let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
    for path in [
        format!("/v1/files/{}", id(&file)),
        format!("/v1/files/{}/content", id(&file)),
        format!("/v1/batches/{}", id(&batch)),
    ] {
        assert_eq!(lab.get(&path, &stranger).await.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(lab.get(&path, &[WEBUI]).await.status(), StatusCode::OK, "{path}");
    }
    let list = body_json(lab.get("/v1/files?limit=1", &[WEBUI]).await).await;
    assert_eq!((list["data"].as_array().map(Vec::len), &list["has_more"]), (Some(1), &json!(true)));
    let after = format!("/v1/files?limit=5&after={}", list["last_id"].as_str().expect("an id"));
    let rest = body_json(lab.get(&after, &[WEBUI]).await).await;
    assert_eq!((&rest["data"][0]["id"], &rest["has_more"]), (&file["id"], &json!(false)));
    let listed = body_json(lab.get("/v1/batches", &[WEBUI]).await).await;
    assert_eq!(listed["data"][0]["id"], batch["id"]);
    let path = format!("/v1/files/{}", id(&file));
    let removed = lab.call(request(Method::DELETE, &path, &[WEBUI], Body::empty())).await;
    assert_eq!(body_json(removed).await["deleted"], true);
    assert_eq!(lab.get(&path, &[WEBUI]).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_batch_is_refused_before_anything_is_kept() {
    let lab = Lab::new().await;
    let good = lab.give(&line("a", "small")).await;
    let bad = lab.give("{\"custom_id\": 1}").await;
    let wish = |file: &Value, endpoint: &str, window: &str| json!({"input_file_id": file["id"], "endpoint": endpoint, "completion_window": window});
    let chat = "/v1/chat/completions";
    for (wish, status) in [
        (wish(&good, "/v1/embeddings", "24h"), 400),
        (wish(&good, chat, "1h"), 400),
        (wish(&bad, chat, "24h"), 400),
        (wish(&json!({"id": "file-nope"}), chat, "24h"), 404),
    ] {
        assert_eq!(lab.post("/v1/batches", &wish).await.status(), status, "{wish}");
    }
    let listed = body_json(lab.get("/v1/batches", &[WEBUI]).await).await;
    assert_eq!(listed["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_cannot_be_kept_are_charged_once_they_are() {
    const THRIFTY: (&str, &str) = ("authorization", "Bearer sk-thrifty");
    let lab = Lab::new().await;
    let names = ["a", "b", "c"];
    for _ in names {
        lab.rig.engines.script(answer());
    }
    let file = lab.give_as(THRIFTY, &names.map(|id| line(id, "small")).join("\n")).await;
    let wish = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions",
        "completion_window": "24h"});
    let made = request(Method::POST, "/v1/batches", &[THRIFTY], Body::from(wish.to_string()));
    let batch = body_json(lab.call(made).await).await;
    let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    let runner = Runner::new(lab.gateway.clone());
    runner.activate().await.expect("a round");
    for _ in 0..500 {
        lab.rig.round().await;
        if lab.rig.jobs.counts().await.expect("readable").pending == 0
            && lab.rig.engines.busy() == 0
            && lab.rig.jobs.lives().is_empty()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Somebody else writes for longer than a writer waits for its turn.
    let held = lab.rig.store.begin().await.expect("a transaction");
    runner.activate().await.expect("a round");
    held.rollback().await.expect("given back");
    let today = homelab_domain::allowance::day_of(lab.rig.clock_now());
    let spent = async || {
        let mut tx = lab.rig.store.read().await.expect("readable");
        tx.batches().spent("thrifty", today).await.expect("readable")
    };
    assert_eq!(spent().await, 0, "what is not kept costs nothing");
    runner.activate().await.expect("a round");
    runner.activate().await.expect("a round");
    assert_eq!(spent().await, 6);
    let batch = body_json(lab.get(&path, &[THRIFTY]).await).await;
    assert_eq!(batch["request_counts"]["completed"], 3, "{batch}");
    // Ten a day: nothing more would be let in if the three had been charged twice.
    let more = super::wish("small", false);
    assert_eq!(lab.chat(&more, &[THRIFTY]).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_gives_no_key_a_second_budget() {
    let mut lab = Lab::new().await;
    let thrifty = [("authorization", "Bearer sk-thrifty")];
    for _ in 0..5 {
        lab.rig.engines.script(answer());
        assert_eq!(lab.chat(&wish("small", false), &thrifty).await.status(), StatusCode::OK);
    }
    assert_eq!(lab.chat(&wish("small", false), &thrifty).await.status(), 429);
    let today = homelab_domain::allowance::day_of(lab.rig.clock_now());
    let mut kept = 0;
    for _ in 0..500 {
        let mut tx = lab.rig.store.read().await.expect("readable");
        kept = tx.batches().spent("thrifty", today).await.expect("readable");
        if kept == 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(kept, 10);
    lab = lab.restart().await;
    lab.gateway.start();
    for _ in 0..500 {
        if lab.chat(&wish("", true), &thrifty).await.status() == 429 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it was given a second budget");
}
