-- Hosts that are off until needed: how they wake, what people said, what they used and for whom.

-- What must be known of a host's power after a restart.
CREATE TABLE power_hosts (
  host TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL DEFAULT 0,
  proved_at BIGINT,
  slept_at BIGINT
);

CREATE TABLE power_holds (
  host TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  state TEXT NOT NULL,
  until BIGINT NOT NULL,
  by TEXT NOT NULL
);

-- Attempts to wake a host, with the phases that each passed.
CREATE TABLE boots (
  host TEXT COLLATE "C" NOT NULL,
  started_at BIGINT NOT NULL,
  reason TEXT COLLATE "C" NOT NULL,
  message TEXT NOT NULL,
  by TEXT NOT NULL,
  signals BIGINT NOT NULL,
  signalled_at BIGINT NOT NULL,
  reached TEXT NOT NULL,
  ended_at BIGINT,
  failure_reason TEXT,
  failure_message TEXT,
  PRIMARY KEY (host, started_at)
);

-- What kept a host awake on a day, by reason.
CREATE TABLE kept_awake (
  host TEXT COLLATE "C" NOT NULL,
  day TEXT COLLATE "C" NOT NULL,
  reason TEXT COLLATE "C" NOT NULL,
  message TEXT NOT NULL,
  lasted BIGINT NOT NULL,
  PRIMARY KEY (host, day, reason)
);

-- What a host used on a day for nobody.
CREATE TABLE energy_idle (
  host TEXT COLLATE "C" NOT NULL,
  day TEXT COLLATE "C" NOT NULL,
  millijoules BIGINT NOT NULL,
  PRIMARY KEY (host, day)
);

-- What it used for a job on a day; stays when the job itself is dropped.
CREATE TABLE energy_jobs (
  job TEXT COLLATE "C" NOT NULL,
  host TEXT COLLATE "C" NOT NULL,
  day TEXT COLLATE "C" NOT NULL,
  tier TEXT NOT NULL,
  millijoules BIGINT NOT NULL,
  PRIMARY KEY (job, host, day)
);
CREATE INDEX energy_jobs_of_day ON energy_jobs (day);
