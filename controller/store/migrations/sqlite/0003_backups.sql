-- What retention, drills, copies and recovery are decided from.

ALTER TABLE schedules ADD COLUMN paused_until INTEGER;

ALTER TABLE runs ADD COLUMN repository TEXT;
ALTER TABLE runs ADD COLUMN drill_age TEXT;
ALTER TABLE runs ADD COLUMN notes TEXT NOT NULL DEFAULT '[]';

-- Signed statements, one chain. Kept for good.
CREATE TABLE attestations (
  sequence INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  kind TEXT NOT NULL,
  backup TEXT,
  statement TEXT NOT NULL,
  digest BLOB NOT NULL,
  signature BLOB NOT NULL,
  key_id TEXT NOT NULL
) STRICT;
CREATE INDEX attestations_of_kind ON attestations (kind, backup, sequence);
CREATE TRIGGER attestations_are_not_changed BEFORE UPDATE ON attestations
BEGIN SELECT RAISE(ABORT, 'signed statements are append-only'); END;
CREATE TRIGGER attestations_are_not_deleted BEFORE DELETE ON attestations
BEGIN SELECT RAISE(ABORT, 'signed statements are append-only'); END;

-- Every verified snapshot that was ever seen, in the order of being seen first.
CREATE TABLE snapshots (
  backup TEXT NOT NULL,
  repository TEXT NOT NULL,
  id TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  run TEXT,
  taken_at INTEGER NOT NULL,
  verified_at INTEGER NOT NULL,
  source_bytes INTEGER NOT NULL,
  items INTEGER,
  state TEXT NOT NULL,
  state_since INTEGER NOT NULL,
  PRIMARY KEY (backup, repository, id)
) STRICT, WITHOUT ROWID;

-- Brakes that a person has let go.
CREATE TABLE acknowledgements (
  backup TEXT NOT NULL,
  brake TEXT NOT NULL,
  subject TEXT NOT NULL,
  by_whom TEXT NOT NULL,
  reason TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (backup, brake, subject)
) STRICT, WITHOUT ROWID;

-- The last time that data of a repository was read through.
CREATE TABLE scrubs (
  repository TEXT PRIMARY KEY,
  at INTEGER NOT NULL,
  problems TEXT NOT NULL
) STRICT, WITHOUT ROWID;
