DELETE FROM jobs WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_lines WHERE batch = :id AND batch IS NOT NULL ORDER BY line LIMIT :chunk
);
