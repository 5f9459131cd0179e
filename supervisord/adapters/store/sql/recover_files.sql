-- Uploads that their daemon did not survive.
UPDATE files SET status = 'deleted' WHERE status = 'uploading';
