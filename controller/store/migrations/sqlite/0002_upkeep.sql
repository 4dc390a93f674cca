-- How much text waits is asked with every job that comes in: an index answers it.
ALTER TABLE jobs ADD COLUMN request_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET request_bytes =
  COALESCE((SELECT LENGTH(body) FROM job_requests WHERE job_id = id), 0);
DROP INDEX jobs_pending;
CREATE INDEX jobs_pending ON jobs (tier, queue_key, id, request_bytes)
  WHERE state IN ('queued', 'waiting');
-- What is old is dropped oldest first.
CREATE INDEX certificates_ended ON certificates (not_after);
CREATE INDEX tokens_ended ON tokens (expires_at);
