SELECT
  a.job_id, a.number, a.backend, a.generation, a.started_at, a.queue_wait_s, a.duration_s, a.ttft_s,
  a.tokens_in, a.tokens_cached, a.tokens_out, a.tokens_per_second, a.http_status, a.status, a.reason, a.detail,
  a.bytes_out,
  p.runtime, p.rung, p.rung_name, p.rung_why, p.hardware,
  p.model, p.quantization, p.context_length, p.template_hash, p.build, p.slots
FROM attempts AS a
JOIN profiles AS p ON p.id = a.profile
WHERE a.job_id IN ({ids})
ORDER BY a.job_id, a.number;
