-- Durable jobs that were in flight. Their next attempt has a number of its own, so that nothing late can pass for it.
UPDATE jobs SET
  status = 'queued',
  backend = NULL,
  detail = 'the daemon ended while this job was running',
  interruptions = interruptions + 1,
  owner = :life
WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_not_done
  WHERE status = 'running' AND status <> 'done' AND origin IS NOT NULL
);
