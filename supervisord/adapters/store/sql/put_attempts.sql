INSERT INTO attempts (
  job_id, number, backend, generation, profile, started_at, queue_wait_s, duration_s, ttft_s,
  tokens_in, tokens_cached, tokens_out, tokens_per_second, http_status, status, reason, detail, bytes_out
)
VALUES {rows}
ON CONFLICT (job_id, number) DO NOTHING;
