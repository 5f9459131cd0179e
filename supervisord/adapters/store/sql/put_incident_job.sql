INSERT INTO incident_jobs (incident_id, job_id)
VALUES (?, ?)
ON CONFLICT (incident_id, job_id) DO NOTHING;
