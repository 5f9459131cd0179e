INSERT INTO profiles (
  id, runtime, rung, rung_name, rung_why, hardware,
  model, quantization, context_length, template_hash, build, slots
)
VALUES {rows};
