UPDATE batches SET counts = ? WHERE id = ?;
