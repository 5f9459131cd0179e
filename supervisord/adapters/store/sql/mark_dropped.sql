UPDATE batches SET dropped_line = :last WHERE id = :batch;
