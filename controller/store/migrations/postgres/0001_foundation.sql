-- Times are microseconds since 1970; spans are microseconds. Words are those of
-- the protocol. Keys compare byte by byte, whatever the locale of the database.

CREATE TABLE tokens (
  id TEXT COLLATE "C" PRIMARY KEY,
  name TEXT COLLATE "C" NOT NULL,
  kinds TEXT NOT NULL,
  role TEXT,
  approver BOOLEAN NOT NULL,
  sealed_secret BYTEA NOT NULL,
  expires_at BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  revoked_at BIGINT
);
CREATE INDEX tokens_newest ON tokens (created_at, id);

CREATE TABLE token_uses (
  token_id TEXT COLLATE "C" NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
  kind TEXT COLLATE "C" NOT NULL,
  key_digest BYTEA NOT NULL,
  used_at BIGINT NOT NULL,
  serial_hex TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (token_id, kind)
);

CREATE TABLE certificates (
  serial_hex TEXT COLLATE "C" PRIMARY KEY,
  identity TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  name TEXT COLLATE "C" NOT NULL,
  not_before BIGINT NOT NULL,
  not_after BIGINT NOT NULL,
  chain_pem TEXT NOT NULL,
  issued_at BIGINT NOT NULL,
  revoked_at BIGINT,
  revocation_reason TEXT
);
CREATE INDEX certificates_newest ON certificates (issued_at, serial_hex);
CREATE INDEX certificates_of_name ON certificates (name, issued_at);
CREATE INDEX certificates_of_identity ON certificates (identity);
CREATE INDEX certificates_revoked ON certificates (not_after) WHERE revoked_at IS NOT NULL;

CREATE TABLE deny_list (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  epoch BIGINT NOT NULL
);
INSERT INTO deny_list (id, epoch) VALUES (1, 0);

CREATE TABLE hosts (
  name TEXT COLLATE "C" PRIMARY KEY,
  drained BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at BIGINT,
  state TEXT,
  state_since BIGINT
);

CREATE TABLE host_daemons (
  host TEXT COLLATE "C" NOT NULL REFERENCES hosts (name) ON DELETE CASCADE,
  kind TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (host, kind)
);

CREATE TABLE audit (
  sequence BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  actor TEXT COLLATE "C" NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  hash BYTEA NOT NULL
);
CREATE INDEX audit_of_actor ON audit (actor, sequence);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- Kept apart from the entries, so that entries cut off at the end are missed.
CREATE TABLE audit_head (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  sequence BIGINT NOT NULL,
  hash BYTEA NOT NULL
);
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));

CREATE TABLE schedules (
  backup TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  known_since BIGINT NOT NULL,
  last_fired_for BIGINT,
  paused_by TEXT,
  paused_reason TEXT,
  paused_at BIGINT,
  PRIMARY KEY (backup, kind)
);

CREATE TABLE runs (
  id TEXT COLLATE "C" PRIMARY KEY,
  backup TEXT COLLATE "C" NOT NULL,
  host TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  run_trigger TEXT NOT NULL,
  started_by TEXT NOT NULL,
  started_at BIGINT NOT NULL,
  scheduled_for BIGINT,
  asked_snapshot TEXT,
  state TEXT NOT NULL,
  progress TEXT NOT NULL,
  unknown_since BIGINT,
  unknown_why TEXT,
  finished_at BIGINT,
  failure TEXT,
  snapshot_id TEXT,
  snapshot_taken_at BIGINT,
  verified_at BIGINT,
  source_bytes BIGINT,
  stored_bytes BIGINT,
  drill_verdict TEXT,
  restore_elapsed BIGINT,
  elapsed BIGINT,
  payload TEXT
);
CREATE INDEX runs_newest ON runs (started_at, id);
CREATE INDEX runs_of_backup ON runs (backup, kind, started_at, id);
CREATE INDEX runs_verified ON runs (backup, snapshot_taken_at, id)
  WHERE kind = 'backup' AND state = 'succeeded';
-- No overlap: one run of a backup and kind at a time.
CREATE UNIQUE INDEX runs_open ON runs (backup, kind) WHERE state IN ('running', 'unknown');

CREATE TABLE jobs (
  id TEXT COLLATE "C" PRIMARY KEY,
  state TEXT NOT NULL,
  tier TEXT NOT NULL,
  model TEXT NOT NULL,
  priority BIGINT NOT NULL,
  queue_key BIGINT NOT NULL,
  submitted_by TEXT NOT NULL,
  submitted_at BIGINT NOT NULL,
  enqueued_at BIGINT NOT NULL,
  deadline BIGINT,
  tokens_max BIGINT,
  record TEXT NOT NULL,
  title TEXT NOT NULL,
  request_form TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  attempts_limit BIGINT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  cancelled_by TEXT,
  worker TEXT,
  lease_until BIGINT,
  started_at BIGINT,
  pieces BIGINT NOT NULL,
  finished_at BIGINT,
  usage TEXT
) WITH (fillfactor = 70);
CREATE INDEX jobs_pending ON jobs (tier, queue_key, id) WHERE state IN ('queued', 'waiting');
CREATE INDEX jobs_owned ON jobs (id) WHERE state IN ('assigned', 'running');
CREATE INDEX jobs_newest ON jobs (submitted_at, id);
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Apart from the jobs, whose rows are rewritten with every heartbeat.
CREATE TABLE job_requests (
  job_id TEXT COLLATE "C" PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
  body BYTEA NOT NULL
);

CREATE TABLE job_pieces (
  job_id TEXT COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  first_index BIGINT NOT NULL,
  pieces BIGINT NOT NULL,
  body BYTEA NOT NULL,
  PRIMARY KEY (job_id, first_index)
);

CREATE TABLE job_events (
  job_id TEXT COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  sequence BIGINT NOT NULL,
  at BIGINT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  worker TEXT,
  PRIMARY KEY (job_id, sequence)
);

CREATE TABLE login_links (
  digest BYTEA PRIMARY KEY,
  person TEXT COLLATE "C" NOT NULL,
  role TEXT NOT NULL,
  approver BOOLEAN NOT NULL,
  expires_at BIGINT NOT NULL
);

CREATE TABLE sessions (
  id TEXT COLLATE "C" PRIMARY KEY,
  digest BYTEA NOT NULL UNIQUE,
  person TEXT COLLATE "C" NOT NULL,
  role TEXT NOT NULL,
  approver BOOLEAN NOT NULL,
  created_at BIGINT NOT NULL,
  last_used_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  idle BIGINT NOT NULL
);
CREATE INDEX sessions_of_person ON sessions (person);

CREATE TABLE leadership (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  holder TEXT NOT NULL,
  token BIGINT NOT NULL,
  since BIGINT NOT NULL,
  until BIGINT NOT NULL
);
INSERT INTO leadership (id, holder, token, since, until) VALUES (1, '', 0, 0, 0);

CREATE TABLE requests (
  id TEXT COLLATE "C" PRIMARY KEY,
  digest BYTEA NOT NULL,
  answer BYTEA,
  at BIGINT NOT NULL
);
CREATE INDEX requests_oldest ON requests (at);
