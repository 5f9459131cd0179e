-- What went wrong, with its evidence. Times are seconds since the epoch.

CREATE TABLE incidents (
  id           TEXT NOT NULL PRIMARY KEY,
  at           REAL NOT NULL,
  backend      TEXT NOT NULL,
  kind         TEXT NOT NULL,
  summary      TEXT NOT NULL,
  generation   INTEGER,
  cause        TEXT NOT NULL,
  permanent    INTEGER NOT NULL,
  status       INTEGER,            -- as Python counts: negative for a signal
  ended_at     REAL,               -- null: it is still followed
  outcome      TEXT NOT NULL,
  downtime_s   REAL NOT NULL,
  jobs_retried INTEGER NOT NULL,
  jobs_failed  INTEGER NOT NULL,
  told         TEXT NOT NULL       -- JSON: the verdict, the jobs in flight and the steps
) WITHOUT ROWID;                   -- ids are time-ordered: rows are appended, and the newest lie together

CREATE INDEX incidents_at ON incidents (at);
CREATE INDEX incidents_backend ON incidents (backend, id);

-- Apart from the incidents so that listing them never reads the evidence: the log, the samples and the facts, as JSON
-- under zlib.
CREATE TABLE incident_evidence (
  incident_id TEXT NOT NULL PRIMARY KEY REFERENCES incidents (id) ON DELETE CASCADE,
  body        BLOB NOT NULL
);

-- The jobs that were in flight, for those who ask what hit a job. Their own records may be gone sooner.
CREATE TABLE incident_jobs (
  incident_id TEXT NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
  job_id      TEXT NOT NULL,
  PRIMARY KEY (incident_id, job_id)
) WITHOUT ROWID;

CREATE INDEX incident_jobs_job ON incident_jobs (job_id, incident_id);
