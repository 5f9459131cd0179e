INSERT INTO batches (
  id, door, endpoint, client, created_at, expires_at, status, at, input_file, completion_window, metadata, total,
  errors, output_file, error_file, ended_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
  door = excluded.door,
  endpoint = excluded.endpoint,
  client = excluded.client,
  created_at = excluded.created_at,
  expires_at = excluded.expires_at,
  status = excluded.status,
  at = excluded.at,
  input_file = excluded.input_file,
  completion_window = excluded.completion_window,
  metadata = excluded.metadata,
  total = excluded.total,
  errors = excluded.errors,
  output_file = excluded.output_file,
  error_file = excluded.error_file,
  ended_at = excluded.ended_at;
