-- The files that the results of marked batches are read under.
UPDATE files SET status = 'deleted'
WHERE status <> 'deleted' AND id IN (
  SELECT output_file FROM batches INDEXED BY batches_deleted WHERE deleted = 1
  UNION ALL
  SELECT error_file FROM batches INDEXED BY batches_deleted WHERE deleted = 1
);
