-- The fence: a finished job does not move, an attempt starts only after the ones before it, news of an attempt before
-- the present one change nothing, and an earlier life of the daemon writes no more. Only durable jobs wait again.
-- Columns: id, status, attempt, backend, generation, started_at, queue_wait_s, finished_at, reason, detail,
-- http_status, content_type, failures, owner.
UPDATE jobs SET
  status = news.column2,
  attempt = news.column3,
  backend = news.column4,
  generation = coalesce(news.column5, generation),
  started_at = coalesce(started_at, news.column6),
  queue_wait_s = news.column7,
  finished_at = news.column8,
  reason = news.column9,
  detail = news.column10,
  http_status = news.column11,
  content_type = news.column12,
  failures = coalesce(news.column13, failures),
  owner = news.column14
FROM (VALUES {rows}) AS news
WHERE jobs.id = news.column1
  AND jobs.finished_at IS NULL
  AND coalesce(jobs.owner, 0) <= news.column14
  AND (news.column3 > jobs.attempt OR (news.column3 = jobs.attempt AND news.column2 <> 'running'))
  AND (news.column2 <> 'queued' OR jobs.origin IS NOT NULL);
