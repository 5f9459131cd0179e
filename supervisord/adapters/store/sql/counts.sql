SELECT status, sum(ended) FROM (
  SELECT status, count(*) AS ended
  FROM jobs INDEXED BY jobs_finished
  WHERE finished_at >= :since AND finished_at IS NOT NULL AND batch IS NULL
  GROUP BY status
  UNION ALL
  SELECT status, count(*) AS ended
  FROM jobs INDEXED BY jobs_finished_lines
  WHERE finished_at >= :since AND finished_at IS NOT NULL AND batch IS NOT NULL
  GROUP BY status
)
GROUP BY status;
