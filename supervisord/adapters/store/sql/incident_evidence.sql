SELECT body FROM incident_evidence WHERE incident_id = ?;
