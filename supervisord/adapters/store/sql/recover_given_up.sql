-- Durable jobs that were in flight at too many deaths of the daemon.
UPDATE jobs SET
  status = 'failed',
  finished_at = :now,
  queue_wait_s = coalesce(max(0.0, started_at - submitted_at), 0.0),
  reason = 'daemon_died',
  detail = 'the daemon died ' || (interruptions + 1) || ' times with it in flight',
  interruptions = interruptions + 1,
  owner = :life
WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_not_done
  WHERE status = 'running' AND status <> 'done' AND origin IS NOT NULL
)
AND interruptions >= :most
RETURNING id;
