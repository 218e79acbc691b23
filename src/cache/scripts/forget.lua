-- Takes back what may be here of a session that was written to without being announced.
-- ARGV  1 the token of the write, which may have arrived after all

drop()
redis.call('ZREM', PENDING, ARGV[1])
return 1
