SELECT counts FROM batches WHERE id = ? AND deleted = 0;
