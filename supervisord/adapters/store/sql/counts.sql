SELECT status, count(*)
FROM jobs INDEXED BY jobs_finished
WHERE finished_at >= ?
GROUP BY status;
