//! Answers that come in one piece.

use bytes::Bytes;
use homelab_proto::inference::v1 as pb;
use serde::Deserialize;

use super::Form;

/// What an engine says of its costs beside a whole answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cost {
    prompt_tokens: Option<u32>,
}

impl Cost {
    fn usage(self, energy_joules: Option<f64>) -> pb::Usage {
        pb::Usage { prompt_tokens: self.prompt_tokens, energy_joules, ..pb::Usage::default() }
    }
}

#[derive(Deserialize)]
struct Vectors {
    data: Vec<Vector>,
    #[serde(default)]
    usage: Cost,
}

#[derive(Deserialize)]
struct Vector {
    #[serde(default)]
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Ranking {
    results: Vec<Ranked>,
    #[serde(default)]
    usage: Cost,
}

#[derive(Deserialize)]
struct Ranked {
    index: u32,
    relevance_score: f64,
}

/// Only the costs: for an answer that is passed on as it is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Costs {
    usage: Cost,
}

/// An engine's vectors. To a caller with JSON they go as they came.
///
/// # Errors
/// The engine answered something else.
pub fn embeddings(
    answer: Bytes,
    form: Form,
    energy_joules: Option<f64>,
) -> Result<pb::EmbedResponse, serde_json::Error> {
    match form {
        Form::Json => {
            let usage = Some(costs(&answer).usage(energy_joules));
            Ok(pb::EmbedResponse { embeddings: Vec::new(), usage, openai_response: answer })
        }
        Form::Typed => {
            let mut vectors: Vectors = serde_json::from_slice(&answer)?;
            vectors.data.sort_by_key(|vector| vector.index);
            let values = vectors.data.into_iter().map(|vector| vector.embedding);
            let embeddings = values.map(|values| pb::Embedding { values }).collect();
            let usage = Some(vectors.usage.usage(energy_joules));
            Ok(pb::EmbedResponse { embeddings, usage, openai_response: Bytes::new() })
        }
    }
}

/// An engine's order of documents. To a caller with JSON it goes as it came.
///
/// # Errors
/// The engine answered something else.
pub fn ranking(
    answer: Bytes,
    form: Form,
    energy_joules: Option<f64>,
) -> Result<pb::RerankResponse, serde_json::Error> {
    match form {
        Form::Json => {
            let usage = Some(costs(&answer).usage(energy_joules));
            Ok(pb::RerankResponse { results: Vec::new(), usage, openai_response: answer })
        }
        Form::Typed => {
            let mut ranking: Ranking = serde_json::from_slice(&answer)?;
            let by_score = |left: &Ranked, right: &Ranked| {
                right.relevance_score.total_cmp(&left.relevance_score)
            };
            ranking.results.sort_by(by_score);
            let results = ranking.results.into_iter().map(|ranked| pb::RankedDocument {
                index: ranked.index,
                score: ranked.relevance_score,
            });
            let usage = Some(ranking.usage.usage(energy_joules));
            Ok(pb::RerankResponse {
                results: results.collect(),
                usage,
                openai_response: Bytes::new(),
            })
        }
    }
}

fn costs(answer: &Bytes) -> Cost {
    serde_json::from_slice::<Costs>(answer).unwrap_or_default().usage
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &[u8] = br#"{"object":"list","data":[{"index":1,"embedding":[0.5]},
        {"index":0,"embedding":[1,-2e-1]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#;

    #[test]
    fn vectors_come_in_the_order_of_their_texts() {
        let answer = embeddings(Bytes::from_static(VECTORS), Form::Typed, Some(2.5)).unwrap();
        let values: Vec<_> = answer.embeddings.into_iter().map(|vector| vector.values).collect();
        assert_eq!(values, [vec![1.0, -0.2], vec![0.5]]);
        let usage = answer.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.energy_joules), (Some(7), Some(2.5)));
    }

    #[test]
    fn a_caller_with_json_gets_the_engines_own() {
        let answer = embeddings(Bytes::from_static(VECTORS), Form::Json, None).unwrap();
        assert_eq!(answer.openai_response, VECTORS);
        assert_eq!(answer.usage.unwrap().prompt_tokens, Some(7));
        let odd = ranking(Bytes::from_static(b"[]"), Form::Json, None).unwrap();
        assert_eq!(
            (odd.openai_response.as_ref(), odd.usage.unwrap().prompt_tokens),
            (&b"[]"[..], None)
        );
    }

    #[test]
    fn the_best_document_comes_first() {
        let json = br#"{"results":[{"index":0,"relevance_score":-3.5},
            {"index":1,"relevance_score":0.25}]}"#;
        let answer = ranking(Bytes::from_static(json), Form::Typed, None).unwrap();
        let order: Vec<u32> = answer.results.iter().map(|result| result.index).collect();
        assert_eq!(order, [1, 0]);
        assert!(embeddings(Bytes::from_static(json), Form::Typed, None).is_err());
    }
}
