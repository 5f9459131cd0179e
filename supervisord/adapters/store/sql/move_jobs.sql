-- The fence: a finished job does not move, and an attempt starts only after the ones before it.
-- Columns: id, status, attempt, backend, generation, started_at, queue_wait_s, finished_at, reason, detail.
UPDATE jobs SET
  status = news.column2,
  attempt = news.column3,
  backend = news.column4,
  generation = coalesce(news.column5, generation),
  started_at = coalesce(started_at, news.column6),
  queue_wait_s = news.column7,
  finished_at = news.column8,
  reason = news.column9,
  detail = news.column10
FROM (VALUES {rows}) AS news
WHERE jobs.id = news.column1
  AND jobs.finished_at IS NULL
  AND (news.column8 IS NOT NULL OR news.column3 > jobs.attempt);
