INSERT INTO footprints (key, backend, at, vram, ram, load_s)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
  backend = excluded.backend,
  at = excluded.at,
  vram = excluded.vram,
  ram = excluded.ram,
  load_s = excluded.load_s;
