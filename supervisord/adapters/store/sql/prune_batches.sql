UPDATE batches SET deleted = 1 WHERE id IN (
  SELECT id FROM batches INDEXED BY batches_ended
  WHERE ended_at < :records AND ended_at IS NOT NULL AND deleted = 0
);
