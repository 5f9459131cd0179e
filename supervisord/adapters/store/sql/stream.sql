SELECT number, event FROM streams WHERE job_id = ? AND number > ? ORDER BY number LIMIT ?;
