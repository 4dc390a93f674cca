-- Hosts that are off until needed: how they wake, what people said, what they used and for whom.

-- What must be known of a host's power after a restart.
CREATE TABLE power_hosts (
  host TEXT NOT NULL PRIMARY KEY,
  fence INTEGER NOT NULL DEFAULT 0,
  proved_at INTEGER,
  slept_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE power_holds (
  host TEXT NOT NULL PRIMARY KEY,
  state TEXT NOT NULL,
  until INTEGER NOT NULL,
  by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Attempts to wake a host, with the phases that each passed.
CREATE TABLE boots (
  host TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  by TEXT NOT NULL,
  signals INTEGER NOT NULL,
  signalled_at INTEGER NOT NULL,
  reached TEXT NOT NULL,
  ended_at INTEGER,
  failure_reason TEXT,
  failure_message TEXT,
  PRIMARY KEY (host, started_at)
) STRICT, WITHOUT ROWID;

-- What kept a host awake on a day, by reason.
CREATE TABLE kept_awake (
  host TEXT NOT NULL,
  day TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  lasted INTEGER NOT NULL,
  PRIMARY KEY (host, day, reason)
) STRICT, WITHOUT ROWID;

-- What a host used on a day for nobody.
CREATE TABLE energy_idle (
  host TEXT NOT NULL,
  day TEXT NOT NULL,
  millijoules INTEGER NOT NULL,
  PRIMARY KEY (host, day)
) STRICT, WITHOUT ROWID;

-- What it used for a job on a day; stays when the job itself is dropped.
CREATE TABLE energy_jobs (
  job TEXT NOT NULL,
  host TEXT NOT NULL,
  day TEXT NOT NULL,
  tier TEXT NOT NULL,
  millijoules INTEGER NOT NULL,
  PRIMARY KEY (job, host, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX energy_jobs_of_day ON energy_jobs (day);
