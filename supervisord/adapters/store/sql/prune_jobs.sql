DELETE FROM jobs WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_finished WHERE finished_at < :before ORDER BY finished_at LIMIT :chunk
);
