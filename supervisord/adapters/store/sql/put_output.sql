-- Runs before the result is written: only the first result of a job brings its output. is_new: the job itself is.
WITH given (id, body, is_new) AS (VALUES (?, ?, ?))
INSERT INTO job_bodies (job_id, part, body)
SELECT given.id, 'output', given.body FROM given
WHERE coalesce((SELECT finished_at IS NULL FROM jobs WHERE jobs.id = given.id), given.is_new);
