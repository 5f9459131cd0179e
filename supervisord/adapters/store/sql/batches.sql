SELECT
  id, door, endpoint, client, created_at, expires_at, status, at, input_file, completion_window, metadata, total,
  errors, output_file, error_file, answers_kept
FROM batches {index}
WHERE deleted = 0 AND {conditions}
ORDER BY id {direction}
LIMIT :limit;
