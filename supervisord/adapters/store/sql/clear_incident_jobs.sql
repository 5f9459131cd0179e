DELETE FROM incident_jobs WHERE incident_id = ?;
