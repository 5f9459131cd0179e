-- Runs before the result is written: only the first result of a job brings its output. ?3: the job itself is new.
INSERT INTO job_bodies (job_id, part, body)
SELECT ?1, 'output', ?2
WHERE coalesce((SELECT finished_at IS NULL FROM jobs WHERE id = ?1), ?3);
