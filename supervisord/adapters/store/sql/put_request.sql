-- Runs before the job's own row is written: the first record of a job stays.
INSERT INTO job_bodies (job_id, part, body)
SELECT ?1, 'request', ?2
WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = ?1);
