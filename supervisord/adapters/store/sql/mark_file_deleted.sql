UPDATE files SET status = 'deleted' WHERE id = ? AND status <> 'deleted';
