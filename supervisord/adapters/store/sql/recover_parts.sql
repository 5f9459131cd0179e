-- Parts of which no record tells: they are deleted as those of any other file.
INSERT INTO files (id, filename, purpose, bytes, created_at, client, status)
SELECT DISTINCT file_id, '', '', 0, :now, '', 'deleted' FROM file_parts WHERE TRUE
ON CONFLICT (id) DO NOTHING;
