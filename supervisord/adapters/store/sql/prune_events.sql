-- Only the oldest are looked at, so that finding nothing to delete costs the same however many there are.
DELETE FROM events WHERE id IN (
  SELECT id FROM (SELECT id, at FROM events ORDER BY id LIMIT :chunk) WHERE at < :records
);
