INSERT INTO job_bodies (job_id, part, body) SELECT column1, 'request', column2 FROM (VALUES {rows});
