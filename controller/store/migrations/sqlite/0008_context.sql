-- What was put before a job of the house's documents, as JSON.
ALTER TABLE jobs ADD COLUMN attached TEXT;

-- Sources of documents. Of the passages of a source those of its generation are searched; those of
-- the one that is being built are not yet.
CREATE TABLE context_sources (
  name TEXT PRIMARY KEY,
  generation INTEGER NOT NULL DEFAULT 0,
  building INTEGER NOT NULL DEFAULT 0,
  refreshed_at INTEGER,
  version TEXT,
  fingerprint BLOB,
  documents INTEGER,
  passages INTEGER,
  withheld INTEGER,
  skipped INTEGER,
  notes TEXT,
  looked_at INTEGER,
  failing_since INTEGER,
  failed_at INTEGER,
  failures INTEGER NOT NULL DEFAULT 0,
  trouble TEXT
);

CREATE TABLE context_passages (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL,
  generation INTEGER NOT NULL,
  passage TEXT NOT NULL,
  document TEXT NOT NULL,
  heading TEXT NOT NULL,
  url TEXT NOT NULL,
  version TEXT NOT NULL,
  body TEXT NOT NULL,
  heading_words TEXT NOT NULL,
  body_words TEXT NOT NULL
);
CREATE INDEX context_passages_source ON context_passages (source, generation);
-- The words are kept once, in the table above.
CREATE VIRTUAL TABLE context_words USING fts5 (
  heading_words, body_words,
  content = 'context_passages', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 0'
);
CREATE TRIGGER context_passages_added AFTER INSERT ON context_passages BEGIN
  INSERT INTO context_words (rowid, heading_words, body_words)
  VALUES (new.id, new.heading_words, new.body_words);
END;
CREATE TRIGGER context_passages_dropped AFTER DELETE ON context_passages BEGIN
  INSERT INTO context_words (context_words, rowid, heading_words, body_words)
  VALUES ('delete', old.id, old.heading_words, old.body_words);
END;

CREATE TABLE runbooks (
  id TEXT PRIMARY KEY,
  text TEXT NOT NULL,
  digest BLOB NOT NULL,
  proposed_by TEXT NOT NULL,
  proposed_at INTEGER NOT NULL,
  from_job TEXT,
  verdict TEXT,
  decided_by TEXT,
  decided_at INTEGER,
  decision_reason TEXT
);
