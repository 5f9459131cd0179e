-- The last of the next lines of a batch that wait, and how many they are.
SELECT max(line), count(*) FROM (
  SELECT line FROM jobs INDEXED BY jobs_lines
  WHERE batch = :batch AND batch IS NOT NULL AND line > :after AND status = 'queued'
  ORDER BY line
  LIMIT :limit
);
