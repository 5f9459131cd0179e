INSERT INTO keys (client, key, digest, job_id, at, batch) VALUES (?, ?, ?, nullif(?, ''), ?, nullif(?, ''));
