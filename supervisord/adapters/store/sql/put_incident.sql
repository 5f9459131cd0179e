-- Its newest state replaces what was stored.
INSERT INTO incidents (
  id, at, backend, kind, summary, generation, cause, permanent, status, ended_at, outcome,
  downtime_s, jobs_retried, jobs_failed, told
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
  at = excluded.at,
  backend = excluded.backend,
  kind = excluded.kind,
  summary = excluded.summary,
  generation = excluded.generation,
  cause = excluded.cause,
  permanent = excluded.permanent,
  status = excluded.status,
  ended_at = excluded.ended_at,
  outcome = excluded.outcome,
  downtime_s = excluded.downtime_s,
  jobs_retried = excluded.jobs_retried,
  jobs_failed = excluded.jobs_failed,
  told = excluded.told;
