-- Work that outlives its client: durable jobs, their streams and keys, files, batches. Times are seconds since the epoch.

ALTER TABLE jobs ADD COLUMN origin TEXT;          -- null: its client waits for it on a connection
ALTER TABLE jobs ADD COLUMN batch TEXT;           -- null: it is no line of one
ALTER TABLE jobs ADD COLUMN line INTEGER;
ALTER TABLE jobs ADD COLUMN deadline_at REAL;
ALTER TABLE jobs ADD COLUMN terms TEXT;           -- JSON: what else was agreed on
ALTER TABLE jobs ADD COLUMN owner INTEGER;        -- the life that wrote last: an earlier one writes no more
ALTER TABLE jobs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN http_status INTEGER;  -- of the answer
ALTER TABLE jobs ADD COLUMN content_type TEXT NOT NULL DEFAULT '';

-- Lines of batches are forgotten with their batch, all others by their own end.
DROP INDEX jobs_finished;
CREATE INDEX jobs_finished ON jobs (finished_at, status) WHERE finished_at IS NOT NULL AND batch IS NULL;
CREATE INDEX jobs_finished_lines ON jobs (finished_at, status) WHERE finished_at IS NOT NULL AND batch IS NOT NULL;

-- With the origin, so that a start finds the jobs of clients that are gone among a million that wait.
DROP INDEX jobs_not_done;
CREATE INDEX jobs_not_done ON jobs (status, id, origin) WHERE status <> 'done';

CREATE INDEX jobs_waiting ON jobs (model, priority, client, id) WHERE status = 'queued' AND origin IS NOT NULL;
CREATE INDEX jobs_deadline ON jobs (deadline_at, id) WHERE status = 'queued' AND deadline_at IS NOT NULL;
-- The lists of each door: of all, of a client, of a model.
CREATE INDEX jobs_origin ON jobs (origin, id) WHERE origin IS NOT NULL;
CREATE INDEX jobs_origin_client ON jobs (origin, client, id) WHERE origin IS NOT NULL;
CREATE INDEX jobs_origin_model ON jobs (origin, model, id) WHERE origin IS NOT NULL;
CREATE INDEX jobs_client ON jobs (client, id);
-- A line becomes one job, whatever is tried again.
CREATE UNIQUE INDEX jobs_line ON jobs (batch, line) WHERE batch IS NOT NULL;
-- In the order of the lines, and with all that the counts of a batch are made of.
CREATE INDEX jobs_lines ON jobs (batch, line, status, reason, http_status) WHERE batch IS NOT NULL;

-- Answers of durable jobs that are no lines are forgotten so long after this.
ALTER TABLE job_bodies ADD COLUMN kept_since REAL;
CREATE INDEX job_bodies_kept ON job_bodies (kept_since) WHERE kept_since IS NOT NULL;

-- How often this store was opened.
CREATE TABLE lives (
  id        INTEGER PRIMARY KEY CHECK (id = 1),
  number    INTEGER NOT NULL,
  opened_at REAL NOT NULL
);

INSERT INTO lives VALUES (1, 0, 0.0);

-- Submissions that carried an Idempotency-Key. They are remembered as long as what they made: a job, or a batch.
CREATE TABLE keys (
  client TEXT NOT NULL,
  key    TEXT NOT NULL,
  digest TEXT NOT NULL,
  job_id TEXT REFERENCES jobs (id) ON DELETE CASCADE,
  at     REAL NOT NULL,
  batch  TEXT,  -- forgotten when its batch is marked as deleted, while its lines are still there
  PRIMARY KEY (client, key),
  CHECK ((job_id IS NULL) <> (batch IS NULL))
) WITHOUT ROWID;

CREATE INDEX keys_job ON keys (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX keys_batch ON keys (batch) WHERE batch IS NOT NULL;

-- Events of background responses.
CREATE TABLE streams (
  job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  event  BLOB NOT NULL,
  PRIMARY KEY (job_id, number)
);

CREATE TABLE files (
  id         TEXT NOT NULL PRIMARY KEY,
  filename   TEXT NOT NULL,
  purpose    TEXT NOT NULL,
  bytes      INTEGER NOT NULL,
  created_at REAL NOT NULL,
  client     TEXT NOT NULL,
  status     TEXT NOT NULL,  -- uploading, processed, or deleted: its parts are on their way out
  expires_at REAL
) WITHOUT ROWID;

-- Apart from the files, and before them: a file is whole once its row says so.
CREATE TABLE file_parts (
  file_id TEXT NOT NULL,
  number  INTEGER NOT NULL,
  data    BLOB NOT NULL,
  PRIMARY KEY (file_id, number)
);

CREATE TABLE batches (
  id                TEXT NOT NULL PRIMARY KEY,
  door              TEXT NOT NULL,
  endpoint          TEXT NOT NULL,
  client            TEXT NOT NULL,
  created_at        REAL NOT NULL,
  expires_at        REAL NOT NULL,
  status            TEXT NOT NULL,
  at                TEXT NOT NULL,  -- JSON: when it entered each status
  input_file        TEXT NOT NULL,
  completion_window TEXT NOT NULL,
  metadata          TEXT NOT NULL,  -- JSON
  total             INTEGER NOT NULL,
  errors            TEXT NOT NULL,  -- JSON
  output_file       TEXT NOT NULL,
  error_file        TEXT NOT NULL,
  ended_at          REAL,           -- null: it has still to go on
  counts            TEXT,           -- JSON: of its lines, once all of them and it have ended
  answers_kept      INTEGER NOT NULL DEFAULT 1,
  dropped_line      INTEGER,        -- not null: answers go, up to this line they are gone
  deleted           INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE INDEX batches_unfinished ON batches (id) WHERE ended_at IS NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX batches_deleted ON batches (id) WHERE deleted = 1;
CREATE INDEX batches_dropping ON batches (id) WHERE dropped_line IS NOT NULL;
CREATE INDEX batches_output ON batches (output_file) WHERE output_file <> '';
CREATE INDEX batches_errors ON batches (error_file) WHERE error_file <> '';
CREATE INDEX batches_input ON batches (input_file) WHERE input_file <> '' AND ended_at IS NULL;
