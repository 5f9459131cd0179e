SELECT body FROM job_bodies WHERE job_id = ? AND part = 'request';
