-- Not lines of batches: they go with their batch.
DELETE FROM jobs WHERE id IN (
  SELECT id FROM jobs INDEXED BY jobs_finished
  WHERE finished_at < :records AND finished_at IS NOT NULL AND batch IS NULL
  ORDER BY finished_at
  LIMIT :chunk
);
