-- A job that is already there keeps its record; its state moves on only past the fence.
INSERT INTO jobs (
  id, endpoint, model, priority, stream, client, submitted_at, max_tokens, temperature,
  status, attempt, backend, generation, started_at, queue_wait_s, finished_at, reason, detail,
  http_status, content_type
)
VALUES {rows}
ON CONFLICT (id) DO UPDATE SET
  status = excluded.status,
  attempt = excluded.attempt,
  backend = excluded.backend,
  generation = coalesce(excluded.generation, generation),
  started_at = coalesce(started_at, excluded.started_at),
  queue_wait_s = excluded.queue_wait_s,
  finished_at = excluded.finished_at,
  reason = excluded.reason,
  detail = excluded.detail,
  http_status = excluded.http_status,
  content_type = excluded.content_type
WHERE finished_at IS NULL
  AND (excluded.attempt > attempt OR (excluded.attempt = attempt AND excluded.finished_at IS NOT NULL));
