SELECT id FROM files WHERE status = 'deleted' LIMIT 1;
