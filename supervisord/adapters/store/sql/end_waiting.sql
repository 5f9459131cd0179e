UPDATE jobs INDEXED BY jobs_lines SET
  status = :status,
  finished_at = :now,
  queue_wait_s = max(0.0, coalesce(started_at, :now) - submitted_at),
  reason = :reason,
  detail = :detail,
  owner = :life
WHERE batch = :batch AND batch IS NOT NULL AND line > :after AND line <= :last AND status = 'queued';
