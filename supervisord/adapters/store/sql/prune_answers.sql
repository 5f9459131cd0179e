DELETE FROM job_bodies WHERE rowid IN (
  SELECT rowid FROM job_bodies INDEXED BY job_bodies_kept
  WHERE kept_since < :answers AND kept_since IS NOT NULL
  ORDER BY kept_since
  LIMIT :chunk
);
