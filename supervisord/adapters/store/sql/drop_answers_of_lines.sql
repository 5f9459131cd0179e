DELETE FROM job_bodies WHERE part = 'output' AND job_id IN (
  SELECT id FROM jobs INDEXED BY jobs_lines
  WHERE batch = :batch AND batch IS NOT NULL AND line > :after AND line <= :last
);
