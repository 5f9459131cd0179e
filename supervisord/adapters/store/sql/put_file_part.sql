INSERT INTO file_parts (file_id, number, data) VALUES (?, ?, ?)
ON CONFLICT (file_id, number) DO UPDATE SET data = excluded.data;
