UPDATE sync_marks SET count = count + 1;
