-- Takes back what may be here of a session that was written to without being announced. Its events have numbers that were
-- not reserved.
-- token: of the write, which may have arrived after all

local function session(token)
  drop()
  redis.call('ZREM', PENDING, token)
  if redis.call('EXISTS', NUMBERS) == 1 then
    -- No process is called so: the store has to be asked.
    redis.call('APPEND', NUMBERS, '?')
  end
  return 1
end
