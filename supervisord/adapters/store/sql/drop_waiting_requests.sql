DELETE FROM job_bodies WHERE part = 'request' AND job_id IN (
  SELECT id FROM jobs INDEXED BY jobs_lines
  WHERE batch = :batch AND batch IS NOT NULL AND line > :after AND line <= :last AND status = 'queued'
);
