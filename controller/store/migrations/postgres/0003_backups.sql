-- What retention, drills, copies and recovery are decided from.

ALTER TABLE schedules ADD COLUMN paused_until BIGINT;

ALTER TABLE runs ADD COLUMN repository TEXT;
ALTER TABLE runs ADD COLUMN drill_age TEXT;
ALTER TABLE runs ADD COLUMN notes TEXT NOT NULL DEFAULT '[]';

-- Signed statements, one chain. Kept for good.
CREATE TABLE attestations (
  sequence BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  backup TEXT COLLATE "C",
  statement TEXT NOT NULL,
  digest BYTEA NOT NULL,
  signature BYTEA NOT NULL,
  key_id TEXT NOT NULL
);
CREATE INDEX attestations_of_kind ON attestations (kind, backup, sequence);
CREATE FUNCTION attestations_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'signed statements are append-only'; END $$;
CREATE TRIGGER attestations_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON attestations
  FOR EACH STATEMENT EXECUTE FUNCTION attestations_are_append_only();

-- Every verified snapshot that was ever seen, in the order of being seen first.
CREATE TABLE snapshots (
  backup TEXT COLLATE "C" NOT NULL,
  repository TEXT COLLATE "C" NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  sequence BIGINT NOT NULL,
  run TEXT,
  taken_at BIGINT NOT NULL,
  verified_at BIGINT NOT NULL,
  source_bytes BIGINT NOT NULL,
  items BIGINT,
  state TEXT NOT NULL,
  state_since BIGINT NOT NULL,
  PRIMARY KEY (backup, repository, id)
);

-- Brakes that a person has let go.
CREATE TABLE acknowledgements (
  backup TEXT COLLATE "C" NOT NULL,
  brake TEXT COLLATE "C" NOT NULL,
  subject TEXT COLLATE "C" NOT NULL,
  by_whom TEXT NOT NULL,
  reason TEXT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (backup, brake, subject)
);

-- The last time that data of a repository was read through.
CREATE TABLE scrubs (
  repository TEXT COLLATE "C" PRIMARY KEY,
  at BIGINT NOT NULL,
  problems TEXT NOT NULL
);
