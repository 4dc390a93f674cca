//! The chunks of an OpenAI stream, freed of pseudonyms.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::pseudonym::{Pseudonyms, Restorer, Written};

/// Fields of a delta whose text goes on from chunk to chunk.
const STREAMED: [&str; 5] = ["content", "reasoning_content", "reasoning", "refusal", "text"];

/// The field of a tool call that does.
const ARGUMENTS: &str = "arguments";

/// One text that goes on from chunk to chunk: choice, field, tool call.
type Channel = (u64, &'static str, u64);

/// Puts originals back into the chunks of one answer, across their borders.
#[derive(Clone, Debug)]
pub struct ChunkRestorer {
    pseudonyms: Arc<Pseudonyms>,
    channels: BTreeMap<Channel, Restorer>,
    /// What every chunk carries beside its choices.
    head: Map<String, Value>,
}

impl ChunkRestorer {
    /// At the start of an answer.
    #[must_use]
    pub fn new(pseudonyms: Arc<Pseudonyms>) -> Self {
        Self { pseudonyms, channels: BTreeMap::new(), head: Map::new() }
    }

    /// Whether chunks pass as they are, because nothing was replaced.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pseudonyms.is_empty()
    }

    /// Restores one chunk. Text may move to a later one, at the latest to the one
    /// that ends its choice.
    pub fn restore(&mut self, chunk: &mut Value) {
        if self.is_idle() {
            return;
        }
        let Value::Object(fields) = chunk else { return };
        let heads = ["id", "object", "created", "model"].into_iter();
        self.head =
            heads.filter_map(|key| Some((key.to_owned(), fields.get(key)?.clone()))).collect();
        for (key, value) in fields.iter_mut() {
            match value {
                Value::Array(choices) if key == "choices" => {
                    choices.iter_mut().for_each(|choice| self.restore_choice(choice));
                }
                value => self.restore_whole(value),
            }
        }
    }

    /// A last chunk with what is still held back, when the answer ended without
    /// saying so.
    pub fn finish(&mut self) -> Option<Value> {
        let mut held: Vec<u64> = self.held().map(|(choice, ..)| *choice).collect();
        held.dedup();
        let choices: Vec<Value> = held
            .into_iter()
            .map(|choice| {
                let mut delta = Map::new();
                self.flush_into(choice, &mut delta);
                json!({ "index": choice, "delta": delta, "finish_reason": null })
            })
            .collect();
        if choices.is_empty() {
            return None;
        }
        let mut chunk = std::mem::take(&mut self.head);
        chunk.insert("choices".to_owned(), choices.into());
        Some(chunk.into())
    }

    fn held(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().filter(|(_, restorer)| restorer.holds()).map(|(channel, _)| channel)
    }

    fn restore_choice(&mut self, choice: &mut Value) {
        let Value::Object(fields) = choice else { return };
        let index = fields.get("index").and_then(Value::as_u64).unwrap_or(0);
        for (key, value) in fields.iter_mut() {
            match value {
                Value::Object(delta) if key == "delta" => self.restore_delta(index, delta),
                value => self.restore_whole(value),
            }
        }
        let has_ended = fields.get("finish_reason").is_some_and(|reason| !reason.is_null());
        if has_ended && self.held().any(|(choice, ..)| *choice == index) {
            let delta = fields.entry("delta").or_insert_with(|| json!({}));
            if let Value::Object(delta) = delta {
                self.flush_into(index, delta);
            }
        }
    }

    fn restore_delta(&mut self, choice: u64, delta: &mut Map<String, Value>) {
        for (key, value) in delta.iter_mut() {
            let streamed = STREAMED.into_iter().find(|field| field == key);
            match (streamed, value) {
                (Some(field), Value::String(text)) => {
                    *text = self.channel((choice, field, 0)).push(text);
                }
                (None, Value::Array(calls)) if key == "tool_calls" => {
                    calls.iter_mut().for_each(|call| self.restore_call(choice, call));
                }
                (_, value) => self.restore_whole(value),
            }
        }
    }

    fn restore_call(&mut self, choice: u64, call: &mut Value) {
        let index = call.get("index").and_then(Value::as_u64).unwrap_or(0);
        let arguments = call.pointer("/function/arguments").and_then(Value::as_str);
        let arguments = arguments.map(|text| {
            let text = text.to_owned();
            self.channel((choice, ARGUMENTS, index)).push(&text)
        });
        if let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) {
            function.remove(ARGUMENTS);
        }
        self.restore_whole(call);
        if let Some((function, arguments)) =
            call.get_mut("function").and_then(Value::as_object_mut).zip(arguments)
        {
            function.insert(ARGUMENTS.to_owned(), arguments.into());
        }
    }

    /// Puts what a choice still holds back at the end of its delta.
    fn flush_into(&mut self, choice: u64, delta: &mut Map<String, Value>) {
        for ((_, field, call), restorer) in
            self.channels.iter_mut().filter(|((of, ..), _)| *of == choice)
        {
            let rest = restorer.finish();
            if rest.is_empty() {
                continue;
            }
            if *field == ARGUMENTS {
                let calls = delta.entry("tool_calls").or_insert_with(|| json!([]));
                let more = json!({ "index": call, "function": { ARGUMENTS: rest } });
                if let Value::Array(calls) = calls {
                    calls.push(more);
                }
                continue;
            }
            let before = delta.get(*field).and_then(Value::as_str).unwrap_or_default();
            let whole = format!("{before}{rest}");
            delta.insert((*field).to_owned(), whole.into());
        }
    }

    /// Texts that come whole.
    fn restore_whole(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                *text = Restorer::whole(&self.pseudonyms, Written::Plain, text);
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.restore_whole(item)),
            Value::Object(fields) => {
                fields.values_mut().for_each(|value| self.restore_whole(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn channel(&mut self, channel: Channel) -> &mut Restorer {
        let written = if channel.1 == ARGUMENTS { Written::Json } else { Written::Plain };
        let pseudonyms = &self.pseudonyms;
        let new = || Restorer::new(Arc::clone(pseudonyms), written);
        self.channels.entry(channel).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gold::DataClass;

    fn pseudonyms() -> (Arc<Pseudonyms>, String, String) {
        let mut pseudonyms = Pseudonyms::new(1, |_| false);
        let host = pseudonyms.of(DataClass::HostName, "x99").unwrap();
        let key = pseudonyms.of(DataClass::Secret, "a\"b").unwrap();
        (Arc::new(pseudonyms), host, key)
    }

    fn delta(index: u64, delta: Value) -> Value {
        json!({"id": "c1", "choices": [{"index": index, "delta": delta, "finish_reason": null}]})
    }

    fn text(chunk: &Value, field: &str) -> String {
        chunk["choices"][0]["delta"][field].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn content_and_reasoning_are_restored_apart_from_each_other() {
        let (pseudonyms, host, _) = pseudonyms();
        let (a, b) = host.split_at(5);
        let mut restorer = ChunkRestorer::new(pseudonyms);
        let mut told = [String::new(), String::new()];
        for chunk in [
            delta(0, json!({"content": format!("on {a}"), "reasoning": format!("so {a}")})),
            delta(0, json!({"reasoning": format!("{b} it is")})),
            delta(0, json!({"content": format!("{b}!")})),
        ] {
            let mut chunk = chunk;
            restorer.restore(&mut chunk);
            told[0].push_str(&text(&chunk, "content"));
            told[1].push_str(&text(&chunk, "reasoning"));
        }
        assert_eq!(told, ["on x99!", "so x99 it is"]);
        assert_eq!(restorer.finish(), None);
    }

    #[test]
    fn arguments_of_tool_calls_stay_json() {
        let (pseudonyms, host, key) = pseudonyms();
        let whole = format!("{{\"host\":\"{host}\",\"key\":\"{key}\"}}");
        let mut restorer = ChunkRestorer::new(pseudonyms);
        let mut arguments = String::new();
        let pieces: Vec<char> = whole.chars().collect();
        for piece in pieces.chunks(3) {
            let piece: String = piece.iter().collect();
            let call =
                json!([{"index": 1, "id": "t", "function": {"name": "wake", "arguments": piece}}]);
            let mut chunk = delta(0, json!({ "tool_calls": call }));
            restorer.restore(&mut chunk);
            let call = &chunk["choices"][0]["delta"]["tool_calls"][0];
            assert_eq!(call["function"]["name"], "wake");
            arguments.push_str(call["function"]["arguments"].as_str().unwrap());
        }
        let value: Value = serde_json::from_str(&arguments).unwrap();
        assert_eq!(value, json!({"host": "x99", "key": "a\"b"}));
    }

    #[test]
    fn what_is_held_back_comes_with_the_chunk_that_ends_the_choice() {
        let (pseudonyms, host, _) = pseudonyms();
        let mut restorer = ChunkRestorer::new(pseudonyms);
        let cut = host.get(..8).unwrap();
        restorer.restore(&mut delta(0, json!({ "content": cut })));
        let mut last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]});
        restorer.restore(&mut last);
        assert_eq!(text(&last, "content"), cut);
    }

    #[test]
    fn an_answer_that_ends_without_saying_so_loses_nothing() {
        let (pseudonyms, ..) = pseudonyms();
        let mut restorer = ChunkRestorer::new(pseudonyms);
        restorer.restore(&mut delta(2, json!({"content": "ends in P"})));
        let last = restorer.finish().unwrap();
        assert_eq!(last["choices"][0]["index"], 2);
        assert_eq!((text(&last, "content").as_str(), &last["id"]), ("P", &json!("c1")));
    }

    #[test]
    fn fields_that_nobody_knows_are_kept_and_restored() {
        let (pseudonyms, host, _) = pseudonyms();
        let mut restorer = ChunkRestorer::new(pseudonyms);
        let mut chunk =
            json!({"x": {"y": [1.5, host]}, "usage": {"total_tokens": 7}, "choices": []});
        restorer.restore(&mut chunk);
        assert_eq!(
            chunk,
            json!({"x": {"y": [1.5, "x99"]}, "usage": {"total_tokens": 7}, "choices": []})
        );
    }

    proptest! {
        #[test]
        fn an_answer_in_chunks_of_any_size_reads_as_it_was_meant(
            sizes in proptest::collection::vec(1_usize..30, 1..40), words in "[PHa-z ]{0,30}",
        ) {
            let (pseudonyms, host, key) = pseudonyms();
            let sent = format!("{words}{host}{words}{key}{host}{words}");
            let meant = format!("{words}x99{words}a\"bx99{words}");
            let mut restorer = ChunkRestorer::new(pseudonyms);
            let mut told = String::new();
            let mut rest = sent.as_str();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, more) = rest.split_at((*size).min(rest.len()));
                rest = more;
                let mut chunk = delta(0, json!({ "content": piece }));
                restorer.restore(&mut chunk);
                told.push_str(&text(&chunk, "content"));
            }
            if let Some(last) = restorer.finish() {
                told.push_str(&text(&last, "content"));
            }
            prop_assert_eq!(told, meant);
        }
    }
}
