SELECT part, body FROM job_bodies WHERE job_id = ?;
