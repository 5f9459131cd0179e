INSERT INTO jobs (
  id, endpoint, model, priority, stream, client, submitted_at, max_tokens, temperature,
  origin, batch, line, deadline_at, terms, owner, status, attempt, detail
)
SELECT
  column1, column2, column3, column4, column5, column6, column7, column8, column9,
  column10, column11, column12, column13, column14, column15, 'queued', 0, ''
FROM (VALUES {rows});
