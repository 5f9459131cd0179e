SELECT data FROM file_parts WHERE file_id = ? AND number = ?;
