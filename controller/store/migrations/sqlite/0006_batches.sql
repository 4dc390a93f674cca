-- Files that were given to the gateway for batches.
CREATE TABLE gateway_files (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  purpose TEXT NOT NULL,
  name TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  content BLOB NOT NULL
) STRICT;
CREATE INDEX gateway_files_owner ON gateway_files (owner, id);

CREATE TABLE batches (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  tiers TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  input TEXT NOT NULL,
  state TEXT NOT NULL,
  metadata TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  cancelling_at INTEGER,
  ended_at INTEGER
) STRICT;
CREATE INDEX batches_owner ON batches (owner, id);
CREATE INDEX batches_active ON batches (id) WHERE ended_at IS NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE batch_lines (
  batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
  line INTEGER NOT NULL,
  state TEXT NOT NULL,
  custom_id TEXT NOT NULL,
  body BLOB NOT NULL,
  result BLOB,
  PRIMARY KEY (batch_id, line)
) STRICT;
CREATE INDEX batch_lines_state ON batch_lines (batch_id, state, line);

-- Tokens that a key has used on a day of UTC.
CREATE TABLE key_days (
  key TEXT NOT NULL,
  day INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  PRIMARY KEY (key, day)
) STRICT;
