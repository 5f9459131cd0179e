SELECT id, filename, purpose, bytes, created_at, client, status, expires_at
FROM files
WHERE {conditions} AND (
  expires_at IS NULL OR expires_at > :now OR id IN (
    SELECT input_file FROM batches INDEXED BY batches_input WHERE input_file <> '' AND ended_at IS NULL
  )
)
ORDER BY id {direction}
LIMIT :limit;
