DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL;
