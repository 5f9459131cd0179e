-- The index is named by the query: the planner keeps no statistics, and must not start to guess where the table has grown.
SELECT
  id, endpoint, model, priority, stream, client, submitted_at, max_tokens, temperature,
  status, attempt, backend, started_at, queue_wait_s, finished_at, reason, detail,
  origin, batch, line, deadline_at, terms, failures, interruptions, http_status, content_type
FROM jobs {index}
WHERE {conditions}
ORDER BY {order}
LIMIT :limit;
