SELECT max(line) FROM (
  SELECT line FROM jobs INDEXED BY jobs_lines
  WHERE batch = :batch AND batch IS NOT NULL AND line > :after
  ORDER BY line
  LIMIT :chunk
);
