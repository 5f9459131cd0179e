-- The oldest beyond the number that is kept.
DELETE FROM incidents WHERE id IN (SELECT id FROM incidents ORDER BY id DESC LIMIT -1 OFFSET :most);
