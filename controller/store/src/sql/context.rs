//! Documents in full-text search: FTS5 in SQLite, `tsvector` in PostgreSQL.
//!
//! What is a word is decided in one place, [`homelab_domain::context::words`], for what is kept and
//! for what is looked for; both back ends are given words and spaces only, so that they find the
//! same and neither sees anything that it could take for syntax.

use async_trait::async_trait;
use homelab_domain::{
    context::{Candidate, Passage, Query, Refreshed, SourceState, Trouble, words},
    ids::SourceName,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Conn,
    args::{at, big, blob, int, text, texts},
    both, each,
    row::{Fields, Row},
};
use crate::{
    error::StoreError,
    noun::context::{Context, PASSAGES_AT_ONCE_MAX},
};

pub(super) struct InContext<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Context for InContext<'_> {
    async fn sources(&mut self) -> Result<Vec<SourceState>, StoreError> {
        let sql = both("SELECT * FROM context_sources ORDER BY name");
        let rows = self.0.rows("list sources of documents", sql, &[]).await?;
        rows.iter().map(|row| state_of(&row.of("context_sources", "name"))).collect()
    }

    async fn begin(&mut self, source: &SourceName) -> Result<u64, StoreError> {
        let sql = both(
            "INSERT INTO context_sources (name, building) VALUES ($1, 1)
             ON CONFLICT (name) DO UPDATE SET building = context_sources.building + 1
             RETURNING name, building",
        );
        let row = self.0.row("begin to read a source", sql, &[text(source)]).await?;
        let row = row.ok_or_else(|| superseded(source))?;
        row.of("context_sources", "name").u64("building")
    }

    async fn put(
        &mut self,
        source: &SourceName,
        generation: u64,
        passages: &[Passage],
    ) -> Result<(), StoreError> {
        let locked = each(
            "SELECT name FROM context_sources WHERE name = $1 AND building = $2",
            "SELECT name FROM context_sources WHERE name = $1 AND building = $2 FOR SHARE",
        );
        let args = [text(source), big(generation)];
        if self.0.row("look whether a source is being read", locked, &args).await?.is_none() {
            return Err(superseded(source));
        }
        let sql = each(
            "INSERT INTO context_passages (source, generation, passage, document, heading, url,
               version, body, heading_words, body_words)
             SELECT $1, $2, value ->> 'passage', value ->> 'document', value ->> 'heading',
               value ->> 'url', value ->> 'version', value ->> 'body', value ->> 'heading_words',
               value ->> 'body_words'
             FROM json_each($3)",
            "INSERT INTO context_passages (source, generation, passage, document, heading, url,
               version, body, words)
             SELECT $1, $2, passage, document, heading, url, version, body,
               setweight(to_tsvector('simple', heading_words), 'A')
                 || setweight(to_tsvector('simple', body_words), 'B')
             FROM jsonb_to_recordset($3::jsonb) AS one (passage TEXT, document TEXT, heading TEXT,
               url TEXT, version TEXT, body TEXT, heading_words TEXT, body_words TEXT)",
        );
        for some in passages.chunks(PASSAGES_AT_ONCE_MAX) {
            let rows = Value::from(some.iter().map(row_of).collect::<Vec<_>>());
            self.0.run("keep passages", sql, &[text(source), big(generation), text(rows)]).await?;
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        source: &SourceName,
        generation: u64,
        refreshed: &Refreshed,
    ) -> Result<(), StoreError> {
        let sql = both(
            "UPDATE context_sources SET generation = $2, refreshed_at = $3, looked_at = $3,
               version = $4, fingerprint = $5, documents = $6, passages = $7, withheld = $8,
               skipped = $9, notes = $10, failing_since = NULL, failed_at = NULL, failures = 0,
               trouble = NULL
             WHERE name = $1 AND building = $2",
        );
        let args = [
            text(source),
            big(generation),
            at(refreshed.at),
            text(&refreshed.version),
            blob(&refreshed.fingerprint),
            int(refreshed.documents),
            int(refreshed.passages),
            int(refreshed.withheld),
            int(refreshed.skipped),
            text(Value::from(refreshed.notes.clone())),
        ];
        match self.0.run("publish what was read of a source", sql, &args).await? {
            0 => Err(superseded(source)),
            _ => Ok(()),
        }
    }

    async fn seen(&mut self, source: &SourceName, now: Timestamp) -> Result<(), StoreError> {
        let sql = both(
            "UPDATE context_sources SET looked_at = $2, failing_since = NULL, failed_at = NULL,
               failures = 0, trouble = NULL
             WHERE name = $1",
        );
        self.0.run("keep that a source is unchanged", sql, &[text(source), at(now)]).await.map(drop)
    }

    async fn failed(
        &mut self,
        source: &SourceName,
        message: &str,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let sql = both(
            "INSERT INTO context_sources (name, failing_since, failed_at, failures, trouble)
             VALUES ($1, $2, $2, 1, $3)
             ON CONFLICT (name) DO UPDATE SET
               failing_since = COALESCE(context_sources.failing_since, excluded.failing_since),
               failed_at = excluded.failed_at, failures = context_sources.failures + 1,
               trouble = excluded.trouble
             RETURNING name, failures",
        );
        let args = [text(source), at(now), text(message)];
        let row = self.0.row("keep that a source failed", sql, &args).await?;
        let row = row.ok_or_else(|| superseded(source))?;
        row.of("context_sources", "name").u32("failures")
    }

    async fn retain(&mut self, sources: &[SourceName]) -> Result<u64, StoreError> {
        let sql = each(
            "DELETE FROM context_sources WHERE name NOT IN (SELECT value FROM json_each($1))",
            "DELETE FROM context_sources WHERE name <> ALL($1)",
        );
        self.0.run("forget sources of documents", sql, &[texts(sources)]).await
    }

    async fn sweep(&mut self, limit: u32) -> Result<u64, StoreError> {
        let sql = both(
            "DELETE FROM context_passages WHERE id IN (
               SELECT old.id FROM context_passages AS old WHERE NOT EXISTS (
                 SELECT 1 FROM context_sources WHERE name = old.source
                   AND old.generation IN (generation, building))
               ORDER BY old.id LIMIT $1)",
        );
        self.0.run("drop old passages", sql, &[int(limit)]).await
    }

    async fn search(
        &mut self,
        query: &Query,
        sources: &[SourceName],
        limit: u32,
    ) -> Result<Vec<Candidate>, StoreError> {
        let sql = each(
            "SELECT one.* FROM context_words
             JOIN context_passages AS one ON one.id = context_words.rowid
             JOIN context_sources AS source
               ON source.name = one.source AND source.generation = one.generation
             WHERE context_words MATCH
                 (SELECT group_concat('\"' || value || '\"', ' OR ') FROM json_each($1))
               AND one.source IN (SELECT value FROM json_each($2))
             ORDER BY bm25(context_words, 4.0, 1.0), one.id LIMIT $3",
            "SELECT one.id, one.source, one.passage, one.document, one.heading, one.url,
               one.version, one.body
             FROM to_tsquery('simple', array_to_string($1::text[], ' | ')) AS wanted,
               context_passages AS one
             JOIN context_sources AS source
               ON source.name = one.source AND source.generation = one.generation
             WHERE one.words @@ wanted AND one.source = ANY($2)
             ORDER BY ts_rank(one.words, wanted) DESC, one.id LIMIT $3",
        );
        let args = [texts(query.words()), texts(sources), int(limit)];
        let rows = self.0.rows("search documents", sql, &args).await?;
        rows.iter().map(candidate_of).collect()
    }
}

fn superseded(source: &SourceName) -> StoreError {
    StoreError::Conflict { what: format!("the source {source}, which is read by somebody else") }
}

fn row_of(passage: &Passage) -> Value {
    let spaced = |texts: &[&str]| {
        let words: Vec<String> = texts.iter().flat_map(|text| words(text)).collect();
        words.join(" ")
    };
    // Neither back end keeps the character 0 in a text.
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    json!({
        "passage": hex(&passage.id),
        "document": clean(&passage.document),
        "heading": clean(&passage.heading),
        "url": clean(&passage.url),
        "version": clean(&passage.version),
        "body": clean(&passage.text),
        "heading_words": spaced(&[&passage.heading, &passage.document]),
        "body_words": spaced(&[&passage.text]),
    })
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn candidate_of(row: &Row) -> Result<Candidate, StoreError> {
    let fields = row.of("context_passages", "id");
    let id = u128::from_str_radix(&fields.text("passage")?, 16);
    Ok(Candidate {
        source: fields.parsed("source")?,
        passage: Passage {
            id: id.map_err(|_| fields.wrong("passage"))?.to_be_bytes(),
            document: fields.text("document")?,
            heading: fields.text("heading")?,
            url: fields.text("url")?,
            version: fields.text("version")?,
            text: fields.text("body")?,
        },
    })
}

fn state_of(fields: &Fields<'_>) -> Result<SourceState, StoreError> {
    let refreshed = match fields.maybe_at("refreshed_at")? {
        None => None,
        Some(at) => Some(Refreshed {
            at,
            version: fields.text("version")?,
            fingerprint: fields.digest("fingerprint")?,
            documents: fields.u32("documents")?,
            passages: fields.u32("passages")?,
            withheld: fields.u32("withheld")?,
            skipped: fields.u32("skipped")?,
            notes: fields.json("notes")?,
        }),
    };
    let since: Option<Timestamp> = fields.maybe_at("failing_since")?;
    let trouble = match since {
        None => None,
        Some(since) => Some(Trouble {
            since,
            at: fields.at("failed_at")?,
            failures: fields.u32("failures")?,
            message: fields.text("trouble")?,
        }),
    };
    Ok(SourceState {
        name: fields.parsed("name")?,
        refreshed,
        looked_at: fields.maybe_at("looked_at")?,
        trouble,
    })
}
