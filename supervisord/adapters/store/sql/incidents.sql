-- The index is named by the query, as with the jobs.
SELECT
  id, at, backend, kind, summary, generation, cause, permanent, status, ended_at, outcome,
  downtime_s, jobs_retried, jobs_failed, told
FROM incidents {index}
WHERE {conditions}
ORDER BY id DESC
LIMIT :limit;
