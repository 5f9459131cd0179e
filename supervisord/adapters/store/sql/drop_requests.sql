-- Of durable jobs that have ended.
DELETE FROM job_bodies
WHERE part = 'request' AND job_id IN (
  SELECT jobs.id FROM (VALUES {rows}) AS given JOIN jobs ON jobs.id = given.column1
  WHERE jobs.origin IS NOT NULL AND jobs.finished_at IS NOT NULL
);
