-- Their clients died with the daemon. How long a job that never started would have waited is not known: 0.
UPDATE jobs SET
  status = 'abandoned',
  finished_at = :now,
  queue_wait_s = coalesce(max(0.0, started_at - submitted_at), 0.0),
  reason = 'daemon_died',
  detail = 'the daemon ended without finishing this job; its client was gone, so it was not run again'
WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_not_done
  WHERE status IN ('queued', 'running') AND status <> 'done' AND origin IS NULL
);
