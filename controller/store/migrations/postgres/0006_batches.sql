-- Files that were given to the gateway for batches.
CREATE TABLE gateway_files (
  id TEXT COLLATE "C" PRIMARY KEY,
  owner TEXT NOT NULL,
  purpose TEXT NOT NULL,
  name TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  content BYTEA NOT NULL
);
CREATE INDEX gateway_files_owner ON gateway_files (owner, id);

CREATE TABLE batches (
  id TEXT COLLATE "C" PRIMARY KEY,
  owner TEXT NOT NULL,
  tiers TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  input TEXT NOT NULL,
  state TEXT NOT NULL,
  metadata TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  cancelling_at BIGINT,
  ended_at BIGINT
);
CREATE INDEX batches_owner ON batches (owner, id);
CREATE INDEX batches_active ON batches (id) WHERE ended_at IS NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE batch_lines (
  batch_id TEXT COLLATE "C" NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
  line BIGINT NOT NULL,
  state TEXT NOT NULL,
  custom_id TEXT NOT NULL,
  body BYTEA NOT NULL,
  result BYTEA,
  PRIMARY KEY (batch_id, line)
);
CREATE INDEX batch_lines_state ON batch_lines (batch_id, state, line);

-- Tokens that a key has used on a day of UTC.
CREATE TABLE key_days (
  key TEXT NOT NULL,
  day BIGINT NOT NULL,
  tokens BIGINT NOT NULL,
  PRIMARY KEY (key, day)
);
