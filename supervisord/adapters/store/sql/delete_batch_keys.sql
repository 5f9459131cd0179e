DELETE FROM keys WHERE batch IN (SELECT id FROM batches INDEXED BY batches_deleted WHERE deleted = 1);
