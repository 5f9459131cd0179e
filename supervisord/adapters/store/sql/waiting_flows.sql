SELECT model, priority, client, count(*) FROM jobs INDEXED BY jobs_lines
WHERE batch = :batch AND batch IS NOT NULL AND line > :after AND line <= :last AND status = 'queued'
GROUP BY model, priority, client;
