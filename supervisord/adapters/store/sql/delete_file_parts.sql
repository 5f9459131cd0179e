DELETE FROM file_parts WHERE rowid IN (SELECT rowid FROM file_parts WHERE file_id = :id LIMIT :chunk);
