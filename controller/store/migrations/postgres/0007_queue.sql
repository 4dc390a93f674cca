-- On which terms a job is wanted.
ALTER TABLE jobs ADD COLUMN class TEXT NOT NULL DEFAULT 'interactive';
ALTER TABLE jobs ADD COLUMN chat TEXT;
ALTER TABLE jobs ADD COLUMN tags TEXT;
ALTER TABLE jobs ADD COLUMN latest_start BIGINT;
-- Identifiers of the jobs that come before, as a JSON array; null when there are none.
ALTER TABLE jobs ADD COLUMN needs TEXT;
ALTER TABLE jobs ADD COLUMN kept_for BIGINT;
ALTER TABLE jobs ADD COLUMN drop_at BIGINT;
ALTER TABLE jobs ADD COLUMN own_ahead BIGINT NOT NULL DEFAULT 0;
-- How much waits is known without asking; what is asked is the order of each queue.
DROP INDEX jobs_pending;
CREATE INDEX jobs_pending ON jobs (tier, model, queue_key, id)
  WHERE state IN ('queued', 'waiting');
CREATE INDEX jobs_dropped ON jobs (drop_at) WHERE drop_at IS NOT NULL;
