SELECT model, priority, client, count(*)
FROM jobs INDEXED BY jobs_waiting
WHERE status = 'queued' AND origin IS NOT NULL
GROUP BY model, priority, client;
