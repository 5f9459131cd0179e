SELECT client, key, digest, coalesce(job_id, ''), at, coalesce(batch, '') FROM keys WHERE client = ? AND key = ?;
