-- The job may have been deleted since.
INSERT INTO streams (job_id, number, event)
SELECT column1, column2, column3 FROM (VALUES {rows})
WHERE EXISTS (SELECT 1 FROM jobs WHERE jobs.id = column1)
ON CONFLICT (job_id, number) DO UPDATE SET event = excluded.event;
