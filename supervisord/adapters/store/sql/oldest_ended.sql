SELECT
  (SELECT min(finished_at) FROM jobs INDEXED BY jobs_finished WHERE finished_at IS NOT NULL AND batch IS NULL),
  ended.at,
  ended.id
FROM (SELECT 1)
LEFT JOIN (
  SELECT id, ended_at AS at FROM batches INDEXED BY batches_ended
  WHERE ended_at IS NOT NULL AND deleted = 0
  ORDER BY ended_at
  LIMIT 1
) AS ended;
