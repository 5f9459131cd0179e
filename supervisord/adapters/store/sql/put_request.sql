-- Runs before the job's own row is written: the first record of a job stays.
WITH given (id, body) AS (VALUES (?, ?))
INSERT INTO job_bodies (job_id, part, body)
SELECT given.id, 'request', given.body FROM given
WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = given.id);
