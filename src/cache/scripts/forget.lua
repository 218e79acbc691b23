-- Takes back what may be here of a session that was written to without being announced.
-- token: of the write, which may have arrived after all

local function session(token)
  drop()
  redis.call('ZREM', PENDING, token)
  return 1
end
