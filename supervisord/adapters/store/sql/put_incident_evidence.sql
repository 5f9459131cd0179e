INSERT INTO incident_evidence (incident_id, body)
VALUES (?, ?)
ON CONFLICT (incident_id) DO UPDATE SET body = excluded.body;
