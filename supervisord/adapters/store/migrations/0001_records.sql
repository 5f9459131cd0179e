-- The records of jobs, their attempts and the daemon's decisions. Times are seconds since the epoch, durations seconds.

PRAGMA application_id = 0x6c6c6d73;  -- "llms": a foreign database is recognised and refused

CREATE TABLE jobs (
  id           TEXT NOT NULL PRIMARY KEY,
  endpoint     TEXT NOT NULL,
  model        TEXT NOT NULL,
  priority     INTEGER NOT NULL,
  stream       INTEGER NOT NULL,
  client       TEXT NOT NULL,
  submitted_at REAL NOT NULL,
  max_tokens   INTEGER,
  temperature  REAL,
  status       TEXT NOT NULL,
  attempt      INTEGER NOT NULL,  -- the fence: news of an earlier attempt changes nothing
  backend      TEXT,
  generation   INTEGER,
  started_at   REAL,              -- of the first attempt
  queue_wait_s REAL,
  finished_at  REAL,              -- not null: final
  reason       TEXT,
  detail       TEXT NOT NULL
) WITHOUT ROWID;                  -- ids are time-ordered: rows are appended, and the newest lie together

CREATE INDEX jobs_model ON jobs (model, id);
CREATE INDEX jobs_backend ON jobs (backend, id) WHERE backend IS NOT NULL;
CREATE INDEX jobs_submitted ON jobs (submitted_at);
CREATE INDEX jobs_finished ON jobs (finished_at, status) WHERE finished_at IS NOT NULL;
-- Nearly every job is done; the index serves those who look for the others, and stays small.
CREATE INDEX jobs_not_done ON jobs (status, id) WHERE status <> 'done';

-- Apart from the jobs so that listing jobs never reads them, and that they can be dropped sooner.
CREATE TABLE job_bodies (
  job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  part   TEXT NOT NULL,  -- request or output
  body   BLOB NOT NULL,
  PRIMARY KEY (job_id, part)
);

-- What served an attempt. A handful of rows, instead of the same eleven words in each of a million attempts.
CREATE TABLE profiles (
  id             INTEGER PRIMARY KEY,
  runtime        TEXT NOT NULL,
  rung           INTEGER NOT NULL,
  hardware       TEXT NOT NULL,
  model          TEXT,
  quantization   TEXT,
  context_length INTEGER,
  template_hash  TEXT,
  build          TEXT,
  slots          INTEGER
);

CREATE TABLE attempts (
  job_id            TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  number            INTEGER NOT NULL,
  backend           TEXT NOT NULL,
  generation        INTEGER NOT NULL,
  profile           INTEGER NOT NULL REFERENCES profiles (id),
  started_at        REAL NOT NULL,
  queue_wait_s      REAL NOT NULL,
  duration_s        REAL NOT NULL,
  ttft_s            REAL,
  tokens_in         INTEGER,
  tokens_cached     INTEGER,
  tokens_out        INTEGER,
  tokens_per_second REAL,
  http_status       INTEGER,
  status            TEXT NOT NULL,
  reason            TEXT,
  detail            TEXT NOT NULL,
  bytes_out         INTEGER NOT NULL,
  PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

CREATE TABLE events (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: followers keep the last one they saw
  at         REAL NOT NULL,
  kind       TEXT NOT NULL,
  message    TEXT NOT NULL,
  backend    TEXT,
  generation INTEGER,
  job_id     TEXT,
  data       TEXT NOT NULL
);

CREATE INDEX events_backend ON events (backend, id) WHERE backend IS NOT NULL;

-- One row that a flush rewrites: a commit that changes nothing writes nothing, and would not sync what lies before it.
CREATE TABLE sync_marks (
  id    INTEGER PRIMARY KEY CHECK (id = 1),
  count INTEGER NOT NULL
);

INSERT INTO sync_marks VALUES (1, 0);
