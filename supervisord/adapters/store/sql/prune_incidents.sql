DELETE FROM incidents WHERE id IN (
  SELECT id FROM incidents INDEXED BY incidents_at WHERE at < :records ORDER BY at LIMIT :chunk
);
