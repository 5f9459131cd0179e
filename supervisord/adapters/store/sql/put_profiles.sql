INSERT INTO profiles (
  id, runtime, rung, hardware, model, quantization, context_length, template_hash, build, slots
)
VALUES {rows};
