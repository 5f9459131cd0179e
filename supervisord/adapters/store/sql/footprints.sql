SELECT key, backend, at, vram, ram, load_s FROM footprints ORDER BY key;
