SELECT id FROM batches INDEXED BY batches_deleted WHERE deleted = 1 LIMIT 1;
