INSERT INTO files (id, filename, purpose, bytes, created_at, client, status, expires_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
  filename = excluded.filename,
  purpose = excluded.purpose,
  bytes = excluded.bytes,
  created_at = excluded.created_at,
  client = excluded.client,
  status = excluded.status,
  expires_at = excluded.expires_at
WHERE status <> 'deleted';
