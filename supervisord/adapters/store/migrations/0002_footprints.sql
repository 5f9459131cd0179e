-- What each configuration of a backend was seen to take. Bytes and seconds; null: not measured.

CREATE TABLE footprints (
  key     TEXT NOT NULL PRIMARY KEY,  -- a digest of all that decides it
  backend TEXT NOT NULL,
  at      REAL NOT NULL,              -- seconds since the epoch
  vram    INTEGER,
  ram     INTEGER,
  load_s  REAL
) WITHOUT ROWID;
