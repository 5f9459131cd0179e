-- Their clients died with the daemon. How long a job that never started would have waited is not known: 0.
UPDATE jobs INDEXED BY jobs_not_done SET
  status = 'abandoned',
  finished_at = :now,
  queue_wait_s = coalesce(max(0.0, started_at - submitted_at), 0.0),
  reason = 'daemon_died',
  detail = 'the daemon ended without finishing this job; its client was gone, so it was not run again'
WHERE status IN ('queued', 'running') AND status <> 'done';
