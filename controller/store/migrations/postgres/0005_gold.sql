-- What left the house, and what it cost.

-- The one row on which all that reserve queue.
CREATE TABLE gold_gate (id BIGINT PRIMARY KEY CHECK (id = 1));
INSERT INTO gold_gate (id) VALUES (1);

-- One row a request that was let out. Until it is settled its reservation counts as spent.
-- Never the text: its digest, its size, and the kinds of what was found in it.
CREATE TABLE gold_calls (
  job TEXT COLLATE "C" NOT NULL,
  attempt BIGINT NOT NULL,
  at BIGINT NOT NULL,
  asker TEXT COLLATE "C" NOT NULL,
  provider TEXT COLLATE "C" NOT NULL,
  model TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  digest BYTEA NOT NULL,
  classes TEXT NOT NULL,
  rules TEXT NOT NULL,
  pseudonyms BIGINT NOT NULL,
  reserved BIGINT NOT NULL,
  outcome TEXT,
  settled_at BIGINT,
  cost BIGINT,
  prompt_tokens BIGINT,
  completion_tokens BIGINT,
  PRIMARY KEY (job, attempt)
);
CREATE INDEX gold_calls_by_time ON gold_calls (at, asker, reserved, cost);
CREATE INDEX gold_calls_open ON gold_calls (at) WHERE outcome IS NULL;
