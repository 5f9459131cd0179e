INSERT INTO events (at, kind, message, backend, generation, job_id, data)
VALUES {rows};
