-- Of the answers that go next.
DELETE FROM streams WHERE job_id IN (
  SELECT job_id FROM job_bodies INDEXED BY job_bodies_kept
  WHERE kept_since < :answers AND kept_since IS NOT NULL
  ORDER BY kept_since
  LIMIT :chunk
);
