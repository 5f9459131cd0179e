SELECT
  sum(status = 'queued'),
  sum(status = 'running'),
  sum(status = 'done' AND coalesce(http_status, 200) < 400),
  sum(status = 'cancelled'),
  sum(status IN ('failed', 'abandoned') AND reason IS 'deadline_exceeded'),
  count(*)
FROM jobs INDEXED BY jobs_lines
WHERE batch = ? AND batch IS NOT NULL;
