-- What left the house, and what it cost.

-- The one row on which all that reserve queue.
CREATE TABLE gold_gate (id INTEGER PRIMARY KEY CHECK (id = 1)) STRICT;
INSERT INTO gold_gate (id) VALUES (1);

-- One row a request that was let out. Until it is settled its reservation counts as spent.
-- Never the text: its digest, its size, and the kinds of what was found in it.
CREATE TABLE gold_calls (
  job TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  at INTEGER NOT NULL,
  asker TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  digest BLOB NOT NULL,
  classes TEXT NOT NULL,
  rules TEXT NOT NULL,
  pseudonyms INTEGER NOT NULL,
  reserved INTEGER NOT NULL,
  outcome TEXT,
  settled_at INTEGER,
  cost INTEGER,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  PRIMARY KEY (job, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX gold_calls_by_time ON gold_calls (at, asker, reserved, cost);
CREATE INDEX gold_calls_open ON gold_calls (at) WHERE outcome IS NULL;
