-- Ends a write that the database has decided: the entry takes what changed, and the token goes, in one step.
-- change is what changed, and behind it comes
--   for nothing
--   for drop     what is here may not be true any more
--   for opened   the number that its events must exceed, that keys live (ms), the process of Redis: the session is
--                new
--   for doubt    what is here lacks something that will be acknowledged, and another part of the write may yet come to
--                something: the token stays until the writer counts as dead
--   for session  JSON, version, initiated
--   for events   events kept, bytes kept; then for each event: score, member, and, if it may be here already, what its
--                member begins with, else ''
-- A writer whose token is gone was taken for dead, or Redis forgot it: readers may have filled in the time before its
-- write, so nothing stays.

-- Copies of the entry are none any more. First, so that it holds even for a change that is cut short.
local function revise()
  redis.call('HINCRBY', STATE, 'r', 1)
end

local function is_here(score, beginning)
  if beginning ~= '' then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', EVENTS, score, score)) do
      if member:sub(1, #beginning) == beginning then
        return true
      end
    end
  end
  return false
end

local function session(token, change, ...)
  bury()
  if change == 'doubt' then
    drop()
    return 'dropped'
  end
  if redis.call('ZREM', PENDING, token) == 0 or change == 'drop' then
    drop()
    return 'dropped'
  end
  if change == 'opened' then
    drop()
    local above, keys_ms, process = ...
    -- The store has no event of it, so from here on all numbers are known.
    reserve(math.max(tonumber(above), last_reserved(process) or above), 1, keys_ms, process)
    return 'changed'
  end
  if change == 'nothing' or redis.call('EXISTS', STATE) == 0 then
    return 'unchanged'
  end

  if change == 'session' then
    local json, version, initiated = ...
    if tonumber(version) > tonumber(redis.call('HGET', STATE, 'v')) then
      revise()
      redis.call('HSET', STATE, 's', json, 'v', version, 'i', initiated)
    end
    return 'changed'
  end

  local kept, bytes_kept = ...
  local state = redis.call('HMGET', STATE, 'i', 'n', 'b', 'c', 'x')
  local n, bytes, complete = tonumber(state[2]), tonumber(state[3]), state[4]
  if state[1] == '1' or redis.call('ZCARD', EVENTS) ~= n then
    -- Its first event makes a session active, in a way that only the database shows.
    drop()
    return 'dropped'
  end

  revise()
  local events = { select(3, ...) }
  for at = 1, #events, 3 do
    local score, member = events[at], events[at + 1]
    if not is_here(score, events[at + 2]) then
      redis.call('ZADD', EVENTS, score, member)
      if complete == '0' and redis.call('ZRANK', EVENTS, member) == 0 then
        -- Older than all that are here: others that are not may lie between.
        redis.call('ZREM', EVENTS, member)
      else
        n, bytes = n + 1, bytes + #member
      end
    end
  end
  while n > tonumber(kept) or bytes > tonumber(bytes_kept) do
    local oldest = redis.call('ZPOPMIN', EVENTS)
    n, bytes, complete = n - 1, bytes - #oldest[1], '0'
  end
  redis.call('PEXPIRE', EVENTS, int(math.max(0, tonumber(state[5]) - now) / 1000))
  redis.call('HSET', STATE, 'n', n, 'b', int(bytes), 'c', complete)
  return 'changed'
end
