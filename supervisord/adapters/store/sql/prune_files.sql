-- Past their own time, or as old as any record may be; results go with their batch.
UPDATE files SET status = 'deleted'
WHERE (expires_at <= :now OR (created_at < :records AND status = 'processed' AND purpose <> 'batch_output'))
AND status <> 'deleted' AND id NOT IN (
  SELECT input_file FROM batches INDEXED BY batches_input WHERE input_file <> '' AND ended_at IS NULL
);
