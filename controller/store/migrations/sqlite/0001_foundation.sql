-- Times are microseconds since 1970; spans are microseconds. Words are those of
-- the protocol. Tables are STRICT: a column holds what it says.

CREATE TABLE tokens (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  kinds TEXT NOT NULL,
  role TEXT,
  approver INTEGER NOT NULL,
  sealed_secret BLOB NOT NULL,
  expires_at INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  revoked_at INTEGER
) STRICT;
CREATE INDEX tokens_newest ON tokens (created_at, id);

CREATE TABLE token_uses (
  token_id TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  key_digest BLOB NOT NULL,
  used_at INTEGER NOT NULL,
  serial_hex TEXT NOT NULL,
  PRIMARY KEY (token_id, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE certificates (
  serial_hex TEXT PRIMARY KEY,
  identity TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  not_before INTEGER NOT NULL,
  not_after INTEGER NOT NULL,
  chain_pem TEXT NOT NULL,
  issued_at INTEGER NOT NULL,
  revoked_at INTEGER,
  revocation_reason TEXT
) STRICT;
CREATE INDEX certificates_newest ON certificates (issued_at, serial_hex);
CREATE INDEX certificates_of_name ON certificates (name, issued_at);
CREATE INDEX certificates_of_identity ON certificates (identity);
CREATE INDEX certificates_revoked ON certificates (not_after) WHERE revoked_at IS NOT NULL;

CREATE TABLE deny_list (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  epoch INTEGER NOT NULL
) STRICT;
INSERT INTO deny_list (id, epoch) VALUES (1, 0);

CREATE TABLE hosts (
  name TEXT PRIMARY KEY,
  drained INTEGER NOT NULL DEFAULT 0,
  last_seen_at INTEGER,
  state TEXT,
  state_since INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE host_daemons (
  host TEXT NOT NULL REFERENCES hosts (name) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  PRIMARY KEY (host, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
  sequence INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_of_actor ON audit (actor, sequence);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

-- Kept apart from the entries, so that entries cut off at the end are missed.
CREATE TABLE audit_head (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  sequence INTEGER NOT NULL,
  hash BLOB NOT NULL
) STRICT;
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, zeroblob(32));

CREATE TABLE schedules (
  backup TEXT NOT NULL,
  kind TEXT NOT NULL,
  known_since INTEGER NOT NULL,
  last_fired_for INTEGER,
  paused_by TEXT,
  paused_reason TEXT,
  paused_at INTEGER,
  PRIMARY KEY (backup, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
  id TEXT PRIMARY KEY,
  backup TEXT NOT NULL,
  host TEXT NOT NULL,
  kind TEXT NOT NULL,
  run_trigger TEXT NOT NULL,
  started_by TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  scheduled_for INTEGER,
  asked_snapshot TEXT,
  state TEXT NOT NULL,
  progress TEXT NOT NULL,
  unknown_since INTEGER,
  unknown_why TEXT,
  finished_at INTEGER,
  failure TEXT,
  snapshot_id TEXT,
  snapshot_taken_at INTEGER,
  verified_at INTEGER,
  source_bytes INTEGER,
  stored_bytes INTEGER,
  drill_verdict TEXT,
  restore_elapsed INTEGER,
  elapsed INTEGER,
  payload TEXT
) STRICT;
CREATE INDEX runs_newest ON runs (started_at, id);
CREATE INDEX runs_of_backup ON runs (backup, kind, started_at, id);
CREATE INDEX runs_verified ON runs (backup, snapshot_taken_at, id)
  WHERE kind = 'backup' AND state = 'succeeded';
-- No overlap: one run of a backup and kind at a time.
CREATE UNIQUE INDEX runs_open ON runs (backup, kind) WHERE state IN ('running', 'unknown');

CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  tier TEXT NOT NULL,
  model TEXT NOT NULL,
  priority INTEGER NOT NULL,
  queue_key INTEGER NOT NULL,
  submitted_by TEXT NOT NULL,
  submitted_at INTEGER NOT NULL,
  enqueued_at INTEGER NOT NULL,
  deadline INTEGER,
  tokens_max INTEGER,
  record TEXT NOT NULL,
  title TEXT NOT NULL,
  request_form TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  attempts_limit INTEGER NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  cancelled_by TEXT,
  worker TEXT,
  lease_until INTEGER,
  started_at INTEGER,
  pieces INTEGER NOT NULL,
  finished_at INTEGER,
  usage TEXT
) STRICT;
CREATE INDEX jobs_pending ON jobs (tier, queue_key, id) WHERE state IN ('queued', 'waiting');
CREATE INDEX jobs_owned ON jobs (id) WHERE state IN ('assigned', 'running');
CREATE INDEX jobs_newest ON jobs (submitted_at, id);
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Apart from the jobs, whose rows are rewritten with every heartbeat.
CREATE TABLE job_requests (
  job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
  body BLOB NOT NULL
) STRICT;

CREATE TABLE job_pieces (
  job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  first_index INTEGER NOT NULL,
  pieces INTEGER NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (job_id, first_index)
) STRICT;

CREATE TABLE job_events (
  job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  at INTEGER NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  worker TEXT,
  PRIMARY KEY (job_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE login_links (
  digest BLOB PRIMARY KEY,
  person TEXT NOT NULL,
  role TEXT NOT NULL,
  approver INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE sessions (
  id TEXT PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,
  person TEXT NOT NULL,
  role TEXT NOT NULL,
  approver INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  last_used_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  idle INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_of_person ON sessions (person);

CREATE TABLE leadership (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  holder TEXT NOT NULL,
  token INTEGER NOT NULL,
  since INTEGER NOT NULL,
  until INTEGER NOT NULL
) STRICT;
INSERT INTO leadership (id, holder, token, since, until) VALUES (1, '', 0, 0, 0);

CREATE TABLE requests (
  id TEXT PRIMARY KEY,
  digest BLOB NOT NULL,
  answer BLOB,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_oldest ON requests (at);
