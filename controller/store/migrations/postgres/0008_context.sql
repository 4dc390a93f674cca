-- What was put before a job of the house's documents, as JSON.
ALTER TABLE jobs ADD COLUMN attached TEXT;

-- Sources of documents. Of the passages of a source those of its generation are searched; those of
-- the one that is being built are not yet.
CREATE TABLE context_sources (
  name TEXT COLLATE "C" PRIMARY KEY,
  generation BIGINT NOT NULL DEFAULT 0,
  building BIGINT NOT NULL DEFAULT 0,
  refreshed_at BIGINT,
  version TEXT,
  fingerprint BYTEA,
  documents BIGINT,
  passages BIGINT,
  withheld BIGINT,
  skipped BIGINT,
  notes TEXT,
  looked_at BIGINT,
  failing_since BIGINT,
  failed_at BIGINT,
  failures BIGINT NOT NULL DEFAULT 0,
  trouble TEXT
);

CREATE TABLE context_passages (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source TEXT NOT NULL,
  generation BIGINT NOT NULL,
  passage TEXT NOT NULL,
  document TEXT NOT NULL,
  heading TEXT NOT NULL,
  url TEXT NOT NULL,
  version TEXT NOT NULL,
  body TEXT NOT NULL,
  words TSVECTOR NOT NULL
);
CREATE INDEX context_passages_source ON context_passages (source, generation);
CREATE INDEX context_passages_words ON context_passages USING GIN (words);

CREATE TABLE runbooks (
  id TEXT COLLATE "C" PRIMARY KEY,
  text TEXT NOT NULL,
  digest BYTEA NOT NULL,
  proposed_by TEXT NOT NULL,
  proposed_at BIGINT NOT NULL,
  from_job TEXT,
  verdict TEXT,
  decided_by TEXT,
  decided_at BIGINT,
  decision_reason TEXT
);
