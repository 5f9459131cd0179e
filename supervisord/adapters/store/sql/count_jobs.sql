SELECT count(*) FROM jobs;
