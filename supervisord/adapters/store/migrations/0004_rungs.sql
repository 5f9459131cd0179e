-- The size that an attempt ran at, in words, and why that was less than is configured. Empty: not recorded then.

ALTER TABLE profiles ADD COLUMN rung_name TEXT NOT NULL DEFAULT '';
ALTER TABLE profiles ADD COLUMN rung_why TEXT NOT NULL DEFAULT '';
