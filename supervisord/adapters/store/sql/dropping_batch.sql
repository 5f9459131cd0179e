SELECT id, dropped_line FROM batches INDEXED BY batches_dropping WHERE dropped_line IS NOT NULL LIMIT 1;
