-- Runs before the result is written: only the first result of a job brings its output. is_new: the job itself is.
WITH given (id, body, is_new, attempt, owner, at, keep) AS (VALUES (?, ?, ?, ?, ?, ?, ?))
INSERT INTO job_bodies (job_id, part, body, kept_since)
SELECT given.id, 'output', given.body, CASE WHEN jobs.origin IS NOT NULL AND jobs.batch IS NULL THEN given.at END
FROM given LEFT JOIN jobs ON jobs.id = given.id
WHERE CASE
  WHEN jobs.id IS NULL THEN given.is_new
  ELSE jobs.finished_at IS NULL
    AND given.attempt >= jobs.attempt
    AND given.owner >= coalesce(jobs.owner, 0)
    AND (given.keep OR jobs.origin IS NOT NULL)
END;
