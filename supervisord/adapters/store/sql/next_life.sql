UPDATE lives SET number = number + 1, opened_at = :now RETURNING number;
