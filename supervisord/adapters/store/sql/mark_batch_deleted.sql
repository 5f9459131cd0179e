UPDATE batches SET deleted = 1 WHERE id = ? AND ended_at IS NOT NULL AND deleted = 0;
