DELETE FROM batches WHERE id = ? AND deleted = 1;
