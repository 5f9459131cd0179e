SELECT id, at, kind, message, backend, generation, job_id, data
FROM events {index}
WHERE {conditions}
ORDER BY id {direction}
LIMIT :limit;
