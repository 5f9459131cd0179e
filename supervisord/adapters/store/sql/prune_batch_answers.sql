UPDATE batches SET answers_kept = 0, dropped_line = 0 WHERE id IN (
  SELECT id FROM batches INDEXED BY batches_ended
  WHERE ended_at < :answers AND ended_at IS NOT NULL AND answers_kept = 1
);
