DELETE FROM files WHERE id = ? AND status = 'deleted';
